#include "ops/scratch.h"

#include <memory>
#include <new>

namespace galvani {

float* thread_scratch(int64_t floats) {
  struct Free {
    void operator()(float* p) const { ::operator delete[](p, std::align_val_t{64}); }
  };
  thread_local std::unique_ptr<float[], Free> buffer;
  thread_local int64_t size = 0;
  if (floats > size) {
    buffer.reset();  // never two generations at once
    size = 0;
    buffer.reset(
        static_cast<float*>(::operator new[](static_cast<size_t>(floats) * sizeof(float), std::align_val_t{64})));
    size = floats;
  }
  return buffer.get();
}

}  // namespace galvani
