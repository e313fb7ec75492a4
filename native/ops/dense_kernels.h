// The float64 inner loops of gram and eigen: one table per instruction set (dense_portable.cc, dense_avx2.cc,
// dense_avx512.cc), all from the source in dense_loops.h, chosen once at load.
#pragma once
#include <cstdint>

namespace galvani {

constexpr int64_t kPack = 8;        // rows of A interleaved in one packed block: block[p * 8 + r]
constexpr int64_t kTileBlocks = 3;  // packed blocks on the column side of one micro-tile

struct DenseKernels {
  // tile (8 × 24, row-major) = Σ_p a[p*8 + i] · b[block][p*8 + j], p in order; b holds 3 blocks, `stride` apart.
  void (*gram_tile)(const double* a, const double* b, int64_t stride, int64_t depth, double* tile);
  // One row of a symmetric matrix times vector, upper triangle: returns Σ_i row[i] v[i], and y[i] += s · row[i].
  double (*dot_axpy)(const double* row, const double* v, double s, double* y, int64_t n);
  double (*dot)(const double* a, const double* b, int64_t n);
  void (*axpy)(double s, const double* x, double* y, int64_t n);
  // The same with float32 entries, widened to float64.
  double (*dot_float)(const float* a, const double* b, int64_t n);
  void (*axpy_float)(double s, const float* x, double* y, int64_t n);
  // Rows of y += S X: s (rows, count), x (count, n) with its rows `stride` apart. Fastest for 4 rows.
  void (*update)(const double* s, const double* x, int64_t stride, int64_t count, double* y, int64_t y_stride,
                 int64_t rows, int64_t n);
};
const DenseKernels& dense_kernels();
extern const DenseKernels kDensePortable, kDenseAvx2, kDenseAvx512;

}  // namespace galvani
