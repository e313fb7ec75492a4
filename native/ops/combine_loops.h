// The loops behind combine_kernels.h, compiled once per instruction set. Internal linkage and no library headers, for
// the reason given in reduce_chunk.h.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX2__) || defined(__AVX512F__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#include "core/dtype.h"
#endif
#include "ops/combine_kernels.h"

namespace galvani {
namespace {

inline uint32_t to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

void widen_bf16(const uint16_t* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = from_bits(static_cast<uint32_t>(from[i]) << 16);
}

void narrow_bf16(const float* from, int64_t n, uint16_t* to) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = to_bits(from[i]);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16, nan = (bits >> 16) | 0x40;
    to[i] = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
  }
}

#if defined(__AVX2__)
void widen_f16(const uint16_t* from, int64_t n, float* to) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
  for (; i < n; ++i) to[i] = _cvtsh_ss(from[i]);
}
void narrow_f16(const float* from, int64_t n, uint16_t* to) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  for (; i < n; ++i) to[i] = static_cast<uint16_t>(_cvtss_sh(from[i], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#else
void widen_f16(const uint16_t* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = f16_to_float(from[i]);
}
void narrow_f16(const float* from, int64_t n, uint16_t* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = float_to_f16(from[i]);
}
#endif

inline double difference(float a, float b) { return static_cast<double>(a) - static_cast<double>(b); }
inline double magnitude(double value) { return value < 0 ? -value : value; }

void add_scaled(double factor, const float* x, double* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] += factor * static_cast<double>(x[i]);
}

constexpr int kStrip = 64;  // elements whose float64 sums stay in registers or the first cache

void weighted_sum(const float* const* in, const double* factor, int count, int64_t n, float* out) {
  for (int64_t at = 0; at < n; at += kStrip) {
    const int64_t width = n - at < kStrip ? n - at : kStrip;
    double sums[kStrip];
    // The first product is not added to 0, which would lose the sign of a zero.
    for (int64_t i = 0; i < width; ++i) sums[i] = factor[0] * static_cast<double>(in[0][at + i]);
    for (int input = 1; input < count; ++input) {
      const float* x = in[input] + at;
      const double f = factor[input];
      for (int64_t i = 0; i < width; ++i) sums[i] += f * static_cast<double>(x[i]);
    }
    for (int64_t i = 0; i < width; ++i) out[at + i] = static_cast<float>(sums[i]);
  }
}

// Adds term(i) for i < n to the lanes, element i to lane i % kSumLanes.
template <typename Term>
inline void add_to_lanes(int64_t n, double* lanes, const Term& term) {
  double sums[kSumLanes] = {};
  int64_t at = 0;
  for (; at + kSumLanes <= n; at += kSumLanes)
    for (int lane = 0; lane < kSumLanes; ++lane) sums[lane] += term(at + lane);
  for (; at < n; ++at) sums[at % kSumLanes] += term(at);
  for (int lane = 0; lane < kSumLanes; ++lane) lanes[lane] += sums[lane];
}

void dot(const float* a, const float* b, int64_t n, double* lanes) {
  add_to_lanes(n, lanes, [=](int64_t i) { return static_cast<double>(a[i]) * static_cast<double>(b[i]); });
}
void dot_differences(const float* a, const float* b, const float* base, int64_t n, double* lanes) {
  add_to_lanes(n, lanes, [=](int64_t i) { return difference(a[i], base[i]) * difference(b[i], base[i]); });
}
void sum_abs_difference(const float* a, const float* base, int64_t n, double* lanes) {
  add_to_lanes(n, lanes, [=](int64_t i) { return magnitude(difference(a[i], base[i])); });
}

// A uniform number in [0, 1) that depends on key and element alone (the finaliser of SplitMix64), so that a mask is
// the same in every pass, whatever the threads, and after an interruption.
inline float uniform(uint64_t key, int64_t element) {
  uint64_t z = key + static_cast<uint64_t>(element) * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return static_cast<float>(static_cast<int32_t>((z ^ (z >> 31)) >> 40)) * 0x1.0p-24f;
}

void keep_random(const float* base, float* x, int64_t n, uint64_t key, int64_t begin, float keep) {
  for (int64_t i = 0; i < n; ++i) x[i] = uniform(key, begin + i) < keep ? x[i] : base[i];
}
void keep_random_each(const float* base, float* x, int64_t n, uint64_t key, int64_t begin, const float* keep) {
  for (int64_t i = 0; i < n; ++i) x[i] = uniform(key, begin + i) < keep[i] ? x[i] : base[i];
}

void consensus_sum(const float* base, const float* const* x, const double* factor, const double* weight, int count,
                   bool normalize, double lambda, int64_t n, float* out) {
  for (int64_t at = 0; at < n; at += kStrip) {
    const int64_t width = n - at < kStrip ? n - at : kStrip;
    double sums[kStrip] = {}, mixed[kStrip] = {}, divisor[kStrip] = {};
    for (int m = 0; m < count; ++m) {
      const double f = factor[m];
      for (int64_t i = 0; i < width; ++i) sums[i] += f * difference(x[m][at + i], base[at + i]);
    }
    for (int m = 0; m < count; ++m) {
      const double f = factor[m], w = weight[m];
      for (int64_t i = 0; i < width; ++i) {
        const double value = f * difference(x[m][at + i], base[at + i]);
        const bool agrees = sums[i] >= 0 ? value > 0 : value < 0;
        mixed[i] += agrees ? value : 0.0;
        divisor[i] += agrees ? w : 0.0;
      }
    }
    if (normalize)
      for (int64_t i = 0; i < width; ++i) mixed[i] /= divisor[i] == 0 ? 1.0 : divisor[i];
    for (int64_t i = 0; i < width; ++i)
      out[at + i] = static_cast<float>(static_cast<double>(base[at + i]) + lambda * mixed[i]);
  }
}

void sce_sum(const float* base, const float* const* x, const double* weight, int count, int64_t n, float* out) {
  for (int64_t at = 0; at < n; at += kStrip) {
    const int64_t width = n - at < kStrip ? n - at : kStrip;
    double sums[kStrip] = {}, mixed[kStrip] = {}, divisor[kStrip] = {};
    for (int m = 0; m < count; ++m)
      for (int64_t i = 0; i < width; ++i) sums[i] += difference(x[m][at + i], base[at + i]);
    for (int m = 0; m < count; ++m) {
      const double w = weight[m];
      for (int64_t i = 0; i < width; ++i) {
        const double value = difference(x[m][at + i], base[at + i]);
        const bool agrees = sums[i] >= 0 ? value > 0 : value < 0;
        mixed[i] += agrees ? w * value : 0.0;
        divisor[i] += agrees ? w : 0.0;
      }
    }
    for (int64_t i = 0; i < width; ++i)
      out[at + i] =
          static_cast<float>(static_cast<double>(base[at + i]) + (divisor[i] > 0 ? mixed[i] / divisor[i] : 0.0));
  }
}

void variance(const float* const* x, int count, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    double sum = 0;
    for (int m = 0; m < count; ++m) sum += static_cast<double>(x[m][i]);
    const double mean = sum / count;  // of equal values exactly that value
    double square = 0;
    for (int m = 0; m < count; ++m) {
      const double off = static_cast<double>(x[m][i]) - mean;
      square += off * off;
    }
    out[i] = static_cast<float>(square / count);
  }
}

void ram_sum(const float* base, const float* const* x, const double* unique, int count, double epsilon, int64_t n,
             float* out) {
  for (int64_t at = 0; at < n; at += kStrip) {
    const int64_t width = n - at < kStrip ? n - at : kStrip;
    double alone[kStrip] = {}, shared[kStrip] = {}, takers[kStrip] = {};
    for (int m = 0; m < count; ++m) {
      const double factor = unique[m];
      for (int64_t i = 0; i < width; ++i) {
        const double value = difference(x[m][at + i], base[at + i]);
        const bool counts = magnitude(value) > epsilon;
        takers[i] += counts ? 1.0 : 0.0;
        shared[i] += counts ? value : 0.0;
        alone[i] += counts ? factor * value : 0.0;
      }
    }
    for (int64_t i = 0; i < width; ++i) {
      const double mean = shared[i] / (takers[i] > 1 ? takers[i] : 1.0);
      out[at + i] = static_cast<float>(static_cast<double>(base[at + i]) + (takers[i] == 1 ? alone[i] : mean));
    }
  }
}

void nearswap(const float* a, const float* b, double t, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    const double step = difference(b[i], a[i]);
    const float moved = static_cast<float>(static_cast<double>(a[i]) + (step > 0 ? t : -t));
    out[i] = magnitude(step) <= t ? b[i] : moved;
  }
}

}  // namespace

#define GALVANI_COMBINE_TABLE                                                                                 \
  {                                                                                                           \
    widen_bf16, widen_f16, narrow_bf16, narrow_f16, add_scaled, weighted_sum, dot, dot_differences,           \
        sum_abs_difference, keep_random, keep_random_each, consensus_sum, sce_sum, variance, ram_sum, nearswap \
  }

}  // namespace galvani
