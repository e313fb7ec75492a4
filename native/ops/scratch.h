// Working memory of the ops: one cache-line aligned buffer per thread, which grows and is kept until the thread ends.
// An op may hold it only while it runs on that thread; ops do not call each other inside a task.
#pragma once
#include <cstdint>

namespace galvani {

float* thread_scratch(int64_t floats);

// Hands out cache-line aligned pieces of such a buffer. Used twice: once to add up, once to cut.
class ScratchCutter {
 public:
  explicit ScratchCutter(float* base = nullptr) : base_(base) {}
  float* floats(int64_t count) {
    float* piece = base_ ? base_ + used_ : nullptr;
    used_ += (count + 15) / 16 * 16;
    return piece;
  }
  int64_t used() const { return used_; }

 private:
  float* base_;
  int64_t used_ = 0;
};

}  // namespace galvani
