// The one promise runner and the one catch. A binding hands over a function for a worker thread and a function that
// turns its result into a JavaScript value; errors, cancellation and progress are handled here and nowhere else.
//
//   return run_task<std::vector<float>>(env, options,
//       [=](Progress& progress) { … progress.step(done, total); … return result; },   // worker thread: no Napi here
//       [](Napi::Env env, std::vector<float>& result) -> Napi::Value { … });          // JavaScript thread
//
// options (an object or undefined): { cancel?: CancelFlag, onProgress?: (done, total) => void }.
// A terminating worker thread waits for its running tasks; they are not interrupted.
#pragma once
#include <napi.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "core/status.h"

namespace galvani {

// An Error as a JavaScript Error with `code` (lib/errors.ts); std::bad_alloc is OUT_OF_MEMORY, the rest INTERNAL.
Napi::Error js_error(Napi::Env env, Code code, const std::string& message);

// Runs body on the JavaScript thread, with every exception turned into a JavaScript error. Wraps synchronous calls.
template <class Body>
auto guarded(Napi::Env env, Body&& body) -> decltype(body()) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (const Error& error) {
    throw js_error(env, error.code(), error.what());
  } catch (const std::bad_alloc&) {
    throw js_error(env, Code::kOutOfMemory, "out of memory");
  } catch (const std::exception& error) {
    throw js_error(env, Code::kInternal, error.what());
  }
}

// Handed to the work function; usable from any thread until the work function returns.
class Progress {
 public:
  // Reports done of total, at most every 50 ms (the last step always); ABORTED when the task was cancelled.
  void step(int64_t done, int64_t total);
  // For inner loops: only the check; flips to true when the task is cancelled.
  const std::atomic<bool>& cancelled() const { return *cancelled_; }
  void check() const {
    if (cancelled_->load(std::memory_order_relaxed)) throw Error(Code::kAborted, "cancelled by the caller");
  }

 private:
  friend class TaskBase;
  using Channel = std::pair<int64_t, int64_t>;  // done, total
  std::shared_ptr<std::atomic<bool>> cancelled_ = std::make_shared<std::atomic<bool>>(false);
  std::optional<Napi::ThreadSafeFunction> report_;
  std::atomic<int64_t> last_ms_{-1'000'000};
};

class TaskBase : public Napi::AsyncWorker {
 public:
  // Starts the task, which deletes itself when done.
  Napi::Promise start();

 protected:
  TaskBase(Napi::Env env, Napi::Value options);
  ~TaskBase() override;
  virtual void work(Progress& progress) = 0;
  virtual Napi::Value result(Napi::Env env) = 0;

 private:
  void Execute() final;
  void OnOK() final;
  void OnError(const Napi::Error& error) final;

  Napi::Promise::Deferred deferred_;
  Progress progress_;
  Code code_ = Code::kInternal;
  std::string message_;
  bool failed_ = false;
};

template <class Result, class Work, class Convert>
class Task final : public TaskBase {
 public:
  Task(Napi::Env env, Napi::Value options, Work work, Convert convert)
      : TaskBase(env, options), work_(std::move(work)), convert_(std::move(convert)) {}

 private:
  void work(Progress& progress) override { result_.emplace(work_(progress)); }
  Napi::Value result(Napi::Env env) override { return convert_(env, *result_); }

  Work work_;
  Convert convert_;
  std::optional<Result> result_;
};

template <class Result, class Work, class Convert>
Napi::Promise run_task(Napi::Env env, Napi::Value options, Work work, Convert convert) {
  auto* task = new Task<Result, Work, Convert>(env, options, std::move(work), std::move(convert));
  return task->start();
}

}  // namespace galvani
