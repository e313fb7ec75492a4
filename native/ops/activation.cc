#include "ops/activation.h"

#include <algorithm>
#include <cmath>

#include "ops/row_blocks.h"

namespace galvani {

void swiglu(float* y, int64_t ldy, const float* gate, int64_t ldg, const float* up, int64_t ldu, int64_t rows, int64_t width,
            ThreadPool& pool) {
  for_row_blocks(pool, rows, width, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t i = 0; i < width; ++i) {
        const float x = gate[row * ldg + i];
        y[row * ldy + i] = x / (1.0f + std::exp(-x)) * up[row * ldu + i];
      }
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
