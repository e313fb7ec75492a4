// Y = X Wᵀ + b, the linear layer of every block. X is float32, W stays in its stored dtype and is widened in registers.
//
//   Y (M, N) float32, row stride ldy      X (M, K) float32, row stride ldx      W (N, K) row-major, contiguous
//
// Accumulation: float32. One output element is a fixed reduction over K that depends on K alone, so a row's bits
// depend neither on the other rows, nor on M, nor on the number of threads. matmul.cc holds the plain loops;
// matmul_avx2.cc and matmul_avx512.cc the fast forms, chosen once at load.
#pragma once
#include <cstdint>

#include "core/dtype.h"
#include "core/parallel.h"

namespace galvani {

struct Weight {
  const void* data = nullptr;  // (rows, columns) = (N, K)
  DType dtype = DType::kF32;   // kF32, kBF16 or kF16
  int64_t rows = 0;
  int64_t columns = 0;
};

struct MatmulArgs {
  float* y;                     // (M, N)
  int64_t ldy;                  // floats between rows of y
  const float* x;               // (M, K)
  int64_t ldx;                  // floats between rows of x
  Weight w;                     // (N, K)
  const float* bias = nullptr;  // (N) or null
  int64_t m;
};

void matmul(const MatmulArgs& args, ThreadPool& pool);

// The specification: the same result by plain loops, float64 accumulation rounded once.
void matmul_reference(const MatmulArgs& args);

}  // namespace galvani
