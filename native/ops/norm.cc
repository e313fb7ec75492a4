#include "ops/norm.h"

#include <cmath>

#include "ops/row_blocks.h"

namespace galvani {
namespace {

// Σ x², as 16 interleaved sums and a fixed tree over them.
float sum_of_squares(const float* x, int64_t width) {
  constexpr int kLanes = 16;
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes)
    for (int j = 0; j < kLanes; ++j) lanes[j] += x[i + j] * x[i + j];
  for (; i < width; ++i) lanes[i % kLanes] += x[i] * x[i];
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int j = 0; j < half; ++j) lanes[j] += lanes[j + half];
  return lanes[0];
}

}  // namespace

void rms_norm(float* y, int64_t ldy, const float* x, int64_t ldx, const float* weight, int64_t rows, int64_t width,
              float eps, ThreadPool& pool) {
  for_row_blocks(pool, rows, width, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* in = x + row * ldx;
      float* out = y + row * ldy;
      const float scale = 1.0f / std::sqrt(sum_of_squares(in, width) / static_cast<float>(width) + eps);
      for (int64_t i = 0; i < width; ++i) out[i] = weight[i] * (in[i] * scale);
    }
  });
}

}  // namespace galvani
