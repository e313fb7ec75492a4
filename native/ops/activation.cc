#include "ops/activation.h"

#include <algorithm>
#include <cmath>

#include "core/simd.h"
#include "ops/activation_kernel.h"
#include "ops/row_blocks.h"

namespace galvani {
namespace {

using SwigluRow = void (*)(float*, const float*, const float*, int64_t);
SwigluRow swiglu_row_here() {
#if defined(__x86_64__)
  switch (cpu_isa()) {
    case Isa::kAvx512:
      return swiglu_row_avx512;
    case Isa::kAvx2:
      return swiglu_row_avx2;
    case Isa::kPortable:
      break;
  }
#endif
  return swiglu_row_portable;
}

}  // namespace

void swiglu_row_portable(float* y, const float* gate, const float* up, int64_t width) {
  swiglu_row(y, gate, up, width);
}

void swiglu(float* y, int64_t ldy, const float* gate, int64_t ldg, const float* up, int64_t ldu, int64_t rows,
            int64_t width, ThreadPool& pool) {
  const SwigluRow row_function = swiglu_row_here();
  for_row_blocks(pool, rows, width, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) row_function(y + row * ldy, gate + row * ldg, up + row * ldu, width);
  });
}

void gelu(float* x, int64_t count, ThreadPool& pool) {
  for_row_blocks(pool, count, 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) x[i] = 0.5f * x[i] * (1.0f + std::erf(x[i] * 0.70710678118654752f));
  });
}

void add_rows(float* x, int64_t ldx, const float* y, int64_t ldy, int64_t rows, int64_t width, ThreadPool& pool) {
  for_row_blocks(pool, rows, width, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t i = 0; i < width; ++i) x[row * ldx + i] += y[row * ldy + i];
  });
}

}  // namespace galvani
