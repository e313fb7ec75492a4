#include "bindings/task.h"

#include "bindings/addon.h"
#include "bindings/convert.h"

namespace galvani {
namespace {

constexpr napi_type_tag kCancelTag = {0x6d1c0f5b5f4e4a1d, 0x9b0a6c3de2f84711};

// JavaScript's handle on a task's cancellation; one flag may serve many tasks.
class CancelFlag : public Napi::ObjectWrap<CancelFlag> {
 public:
  static void define(Napi::Env env, Napi::Object exports) {
    export_class(env, exports, "CancelFlag",
                 DefineClass(env, "CancelFlag", {InstanceMethod<&CancelFlag::cancel>("cancel", napi_default_method)}));
  }
  explicit CancelFlag(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    info.This().As<Napi::Object>().TypeTag(&kCancelTag);
  }
  std::shared_ptr<std::atomic<bool>> flag() const { return flag_; }

 private:
  Napi::Value cancel(const Napi::CallbackInfo& info) {
    flag_->store(true, std::memory_order_relaxed);
    return info.Env().Undefined();
  }
  std::shared_ptr<std::atomic<bool>> flag_ = std::make_shared<std::atomic<bool>>(false);
};

int64_t now_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

void init_tasks(Napi::Env env, Napi::Object exports) { CancelFlag::define(env, exports); }

Napi::Error js_error(Napi::Env env, Code code, const std::string& message) {
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", Napi::String::New(env, code_name(code)));
  return error;
}

void Progress::step(int64_t done, int64_t total) {
  check();
  if (!report_) return;
  int64_t last = last_ms_.load(std::memory_order_relaxed);
  const int64_t now = now_ms();
  if (done != total && now - last < 50) return;
  if (!last_ms_.compare_exchange_strong(last, now, std::memory_order_relaxed)) return;  // another thread just reported
  auto* values = new Channel(done, total);
  const napi_status status =
      report_->NonBlockingCall(values, [](Napi::Env env, Napi::Function callback, Channel* sent) {
        const Channel got = *sent;
        delete sent;
        if (env != nullptr && callback)
          callback.Call({Napi::Number::New(env, static_cast<double>(got.first)),
                         Napi::Number::New(env, static_cast<double>(got.second))});
      });
  if (status != napi_ok) delete values;
}

TaskBase::TaskBase(Napi::Env env, Napi::Value options)
    : AsyncWorker(env, "galvani"), deferred_(Napi::Promise::Deferred::New(env)) {
  if (options.IsUndefined() || options.IsNull()) return;
  const Fields fields(options, "task options");
  const Napi::Value cancel = fields.value("cancel");
  if (!cancel.IsUndefined()) {
    if (!cancel.IsObject() || !cancel.As<Napi::Object>().CheckTypeTag(&kCancelTag))
      throw Error(Code::kBadArgument, "task options: cancel: expected a CancelFlag");
    progress_.cancelled_ = CancelFlag::Unwrap(cancel.As<Napi::Object>())->flag();
  }
  const Napi::Value report = fields.value("onProgress");
  if (!report.IsUndefined()) {
    if (!report.IsFunction()) throw Error(Code::kBadArgument, "task options: onProgress: expected a function");
    progress_.report_ = Napi::ThreadSafeFunction::New(env, report.As<Napi::Function>(), "galvani progress", 0, 1);
  }
}

TaskBase::~TaskBase() {
  if (progress_.report_) progress_.report_->Release();
}

Napi::Promise TaskBase::start() {
  const Napi::Promise promise = deferred_.Promise();
  Queue();
  return promise;
}

void TaskBase::Execute() {
  try {
    progress_.check();
    work(progress_);
    return;
  } catch (const Error& error) {
    code_ = error.code();
    message_ = error.what();
  } catch (const std::bad_alloc&) {
    code_ = Code::kOutOfMemory;
    message_ = "out of memory";
  } catch (const std::exception& error) {
    message_ = error.what();
  } catch (...) {
    message_ = "an exception of unknown type";
  }
  failed_ = true;
}

void TaskBase::OnOK() {
  Napi::Env env = Env();
  if (failed_) return deferred_.Reject(js_error(env, code_, message_).Value());
  try {
    deferred_.Resolve(guarded(env, [&] { return result(env); }));
  } catch (const Napi::Error& error) {
    deferred_.Reject(error.Value());
  }
}

void TaskBase::OnError(const Napi::Error& error) { deferred_.Reject(error.Value()); }

}  // namespace galvani
