// RMSNorm (Zhang & Sennrich 2019) as Qwen2 computes it: y = w · x / sqrt(mean(x²) + eps). Float32; the mean of squares
// is a fixed reduction over C alone.
#pragma once
#include <cstdint>

#include "core/parallel.h"

namespace galvani {

// y (rows, C), x (rows, C), weight (C). y may be x.
void rms_norm(float* y, int64_t ldy, const float* x, int64_t ldx, const float* weight, int64_t rows, int64_t width,
              float eps, ThreadPool& pool);

}  // namespace galvani
