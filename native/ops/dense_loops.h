// The loops behind dense_kernels.h in GCC's vector types, compiled once per instruction set, each with its own width.
// Internal linkage for the reason given in reduce_chunk.h.
#pragma once
#include "ops/dense_kernels.h"

namespace galvani {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 8, kTileRows = 8, kTileVectors = 3;  // 24 accumulators of 32 registers
#elif defined(__AVX2__)
constexpr int kLanes = 4, kTileRows = 4, kTileVectors = 3;  // 12 of 16
#else
constexpr int kLanes = 2, kTileRows = 4, kTileVectors = 3;
#endif
typedef double Vec __attribute__((vector_size(kLanes * 8), aligned(8), may_alias));

inline Vec load(const double* from) { return *reinterpret_cast<const Vec*>(from); }
inline void store(double* to, const Vec& value) { *reinterpret_cast<Vec*>(to) = value; }
inline double sum_of(const Vec& v) {
  double sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) sum += v[lane];
  return sum;
}

// kTileRows × (kTileVectors·kLanes) accumulators stay in registers.
inline void gram_part(const double* a, const double* const* b, int64_t depth, double* const* out) {
  Vec sums[kTileRows][kTileVectors] = {};
  for (int64_t p = 0; p < depth; ++p) {
    Vec right[kTileVectors];
    for (int v = 0; v < kTileVectors; ++v) right[v] = load(b[v] + p * kPack);
    for (int row = 0; row < kTileRows; ++row)
      for (int v = 0; v < kTileVectors; ++v) sums[row][v] += a[p * kPack + row] * right[v];
  }
  for (int row = 0; row < kTileRows; ++row)
    for (int v = 0; v < kTileVectors; ++v) store(out[v] + row * kTileBlocks * kPack, sums[row][v]);
}

void gram_tile(const double* a, const double* b, int64_t stride, int64_t depth, double* tile) {
  constexpr int64_t kColumns = kTileBlocks * kPack, kStep = kTileVectors * kLanes;
  static_assert(kColumns % kStep == 0 && kPack % kLanes == 0 && kPack % kTileRows == 0);
  for (int64_t row = 0; row < kPack; row += kTileRows) {
    for (int64_t column = 0; column < kColumns; column += kStep) {
      const double* from[kTileVectors];
      double* to[kTileVectors];
      for (int v = 0; v < kTileVectors; ++v) {
        const int64_t at = column + v * kLanes;
        from[v] = b + at / kPack * stride + at % kPack;
        to[v] = tile + row * kColumns + at;
      }
      gram_part(a + row, from, depth, to);
    }
  }
}

double dot_axpy(const double* row, const double* v, double s, double* y, int64_t n) {
  constexpr int kParts = 4, kStep = kParts * kLanes;
  Vec sums[kParts] = {};
  int64_t i = 0;
  for (; i + kStep <= n; i += kStep) {
    for (int part = 0; part < kParts; ++part) {
      const int64_t at = i + part * kLanes;
      const Vec x = load(row + at);
      sums[part] += x * load(v + at);
      store(y + at, load(y + at) + s * x);
    }
  }
  double sum = (sum_of(sums[0]) + sum_of(sums[1])) + (sum_of(sums[2]) + sum_of(sums[3]));
  for (; i < n; ++i) {
    sum += row[i] * v[i];
    y[i] += s * row[i];
  }
  return sum;
}

double dot(const double* a, const double* b, int64_t n) {
  constexpr int kParts = 4, kStep = kParts * kLanes;
  Vec sums[kParts] = {};
  int64_t i = 0;
  for (; i + kStep <= n; i += kStep)
    for (int part = 0; part < kParts; ++part) sums[part] += load(a + i + part * kLanes) * load(b + i + part * kLanes);
  double sum = (sum_of(sums[0]) + sum_of(sums[1])) + (sum_of(sums[2]) + sum_of(sums[3]));
  for (; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

void axpy(double s, const double* x, double* y, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, load(y + i) + s * load(x + i));
  for (; i < n; ++i) y[i] += s * x[i];
}

typedef float Narrow __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
inline Vec load(const float* from) { return __builtin_convertvector(*reinterpret_cast<const Narrow*>(from), Vec); }

double dot_float(const float* a, const double* b, int64_t n) {
  constexpr int kParts = 4, kStep = kParts * kLanes;
  Vec sums[kParts] = {};
  int64_t i = 0;
  for (; i + kStep <= n; i += kStep)
    for (int part = 0; part < kParts; ++part) sums[part] += load(a + i + part * kLanes) * load(b + i + part * kLanes);
  double sum = (sum_of(sums[0]) + sum_of(sums[1])) + (sum_of(sums[2]) + sum_of(sums[3]));
  for (; i < n; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

void axpy_float(double s, const float* x, double* y, int64_t n) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, load(y + i) + s * load(x + i));
  for (; i < n; ++i) y[i] += s * static_cast<double>(x[i]);
}

template <int kRows>
inline void update_rows(const double* s, const double* x, int64_t stride, int64_t count, double* y, int64_t y_stride,
                        int64_t n) {
  constexpr int kParts = 2, kStep = kParts * kLanes;
  int64_t i = 0;
  for (; i + kStep <= n; i += kStep) {
    Vec sums[kRows][kParts];
    for (int row = 0; row < kRows; ++row)
      for (int part = 0; part < kParts; ++part) sums[row][part] = load(y + row * y_stride + i + part * kLanes);
    for (int64_t q = 0; q < count; ++q) {
      Vec values[kParts];
      for (int part = 0; part < kParts; ++part) values[part] = load(x + q * stride + i + part * kLanes);
      for (int row = 0; row < kRows; ++row)
        for (int part = 0; part < kParts; ++part) sums[row][part] += s[row * count + q] * values[part];
    }
    for (int row = 0; row < kRows; ++row)
      for (int part = 0; part < kParts; ++part) store(y + row * y_stride + i + part * kLanes, sums[row][part]);
  }
  for (; i < n; ++i)
    for (int row = 0; row < kRows; ++row)
      for (int64_t q = 0; q < count; ++q) y[row * y_stride + i] += s[row * count + q] * x[q * stride + i];
}

void update(const double* s, const double* x, int64_t stride, int64_t count, double* y, int64_t y_stride, int64_t rows,
            int64_t n) {
  if (rows == 4) return update_rows<4>(s, x, stride, count, y, y_stride, n);
  for (int64_t row = 0; row < rows; ++row)
    update_rows<1>(s + row * count, x, stride, count, y + row * y_stride, y_stride, n);
}

}  // namespace
}  // namespace galvani
