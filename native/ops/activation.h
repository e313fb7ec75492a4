// Pointwise nonlinearities of the MLPs.
#pragma once
#include <cstdint>

#include "core/parallel.h"

namespace galvani {

// y = silu(gate) · up, (rows, F) each; y may be gate. silu(x) = x / (1 + e^−x).
void swiglu(float* y, int64_t ldy, const float* gate, int64_t ldg, const float* up, int64_t ldu, int64_t rows,
            int64_t width, ThreadPool& pool);

// Exact GELU in place: x · Φ(x), by erf.
void gelu(float* x, int64_t count, ThreadPool& pool);

// x += y, (rows, C).
void add_rows(float* x, int64_t ldx, const float* y, int64_t ldy, int64_t rows, int64_t width, ThreadPool& pool);

}  // namespace galvani
