// The loops behind dense_kernels.h in GCC's vector types, compiled once per instruction set.
// Internal linkage for the reason given in reduce_chunk.h.
#pragma once
#include "ops/dense_kernels.h"

namespace galvani {
namespace {

typedef double Vec8 __attribute__((vector_size(64), aligned(8), may_alias));

// kRows × kBlocks·8 accumulators stay in registers: 8 × 3 with 32 wide registers, less on older machines.
template <int kRows, int kBlocks>
inline void gram_part(const double* a, const double* b, int64_t stride, int64_t depth, double* tile) {
  Vec8 sums[kRows][kBlocks] = {};
  for (int64_t p = 0; p < depth; ++p) {
    Vec8 right[kBlocks];
    for (int block = 0; block < kBlocks; ++block)
      right[block] = *reinterpret_cast<const Vec8*>(b + block * stride + p * kPack);
    for (int row = 0; row < kRows; ++row)
      for (int block = 0; block < kBlocks; ++block) sums[row][block] += a[p * kPack + row] * right[block];
  }
  for (int row = 0; row < kRows; ++row)
    for (int block = 0; block < kBlocks; ++block)
      *reinterpret_cast<Vec8*>(tile + row * kTileBlocks * kPack + block * kPack) = sums[row][block];
}

template <int kRows, int kBlocks>
void gram_tile(const double* a, const double* b, int64_t stride, int64_t depth, double* tile) {
  for (int row = 0; row < kPack; row += kRows)
    for (int block = 0; block < kTileBlocks; block += kBlocks)
      gram_part<kRows, kBlocks>(a + row, b + block * stride, stride, depth, tile + row * kTileBlocks * kPack + block * kPack);
}

inline double sum_of(const Vec8& v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }

double dot_axpy(const double* row, const double* v, double s, double* y, int64_t n) {
  Vec8 sums[2] = {};
  int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (int part = 0; part < 2; ++part) {
      const Vec8 x = *reinterpret_cast<const Vec8*>(row + i + 8 * part);
      sums[part] += x * *reinterpret_cast<const Vec8*>(v + i + 8 * part);
      *reinterpret_cast<Vec8*>(y + i + 8 * part) += s * x;
    }
  double sum = sum_of(sums[0]) + sum_of(sums[1]);
  for (; i < n; ++i) {
    sum += row[i] * v[i];
    y[i] += s * row[i];
  }
  return sum;
}

double dot(const double* a, const double* b, int64_t n) {
  Vec8 sums[4] = {};
  int64_t i = 0;
  for (; i + 32 <= n; i += 32)
    for (int part = 0; part < 4; ++part)
      sums[part] += *reinterpret_cast<const Vec8*>(a + i + 8 * part) * *reinterpret_cast<const Vec8*>(b + i + 8 * part);
  double sum = (sum_of(sums[0]) + sum_of(sums[1])) + (sum_of(sums[2]) + sum_of(sums[3]));
  for (; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

void axpy(double s, const double* x, double* y, int64_t n) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) *reinterpret_cast<Vec8*>(y + i) += s * *reinterpret_cast<const Vec8*>(x + i);
  for (; i < n; ++i) y[i] += s * x[i];
}

}  // namespace
}  // namespace galvani
