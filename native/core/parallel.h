// A fixed pool of worker threads and one primitive over it. Work is cut by the caller into independent indices;
// results never depend on which thread ran an index, so every reduction built on it is deterministic.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace galvani {

class ThreadPool {
 public:
  // threads = 0: one per hardware thread this process may use. The calling thread works too.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(index) once for each index in [0, count), from several threads; returns when all are done.
  // Rethrows the first exception. Not reentrant: a body must not call run() on the same pool.
  void run(int64_t count, const std::function<void(int64_t)>& body);

 private:
  void work();
  void drain();

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(int64_t)>* body_ = nullptr;
  int64_t count_ = 0;
  std::atomic<int64_t> next_{0};
  std::atomic<uint64_t> generation_{0};
  std::atomic<int> active_{0};
  std::exception_ptr failure_;
  std::mutex run_mutex_;  // several engines may share a pool; their runs take turns
  bool stop_ = false;
};

// Number of threads this process may use (affinity mask respected).
int available_threads();

// Called between blocks of work; throws to abandon it (cancellation).
using Poll = std::function<void()>;

}  // namespace galvani
