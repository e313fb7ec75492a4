// The inner loops of delta_sums, compiled once per instruction set (reduce.cc, reduce_avx2.cc, reduce_avx512.cc).
// Sixteen independent lanes, so that the compiler may use vectors of any width without changing a bit of the result.
// Everything here has internal linkage: two copies of one inline function with different flags would be merged.
#pragma once
#include <cstdint>
#include <cstring>

namespace galvani {
namespace {

constexpr int kLanes = 16;

// One tile of widened weights; count is a multiple of kLanes (the caller pads with zeros).
struct TileSums {
  double weight[3][kLanes];
  double square[2][kLanes];
  float max_abs[2][kLanes];
  uint32_t identical[2][kLanes];
  uint32_t zero[2][kLanes];
  int64_t ulps[2][kLanes][16];
  double dot[kLanes];
  uint32_t same[kLanes], opposite[kLanes];
};

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// 16 four-bit counters in one word per lane: no table in memory, so the loop vectorises; emptied before they overflow.
inline void empty_counters(uint64_t counters[kLanes], int64_t ulps[kLanes][16]) {
  for (int lane = 0; lane < kLanes; ++lane)
    for (int bin = 0; bin < 16; ++bin) ulps[lane][bin] += static_cast<int64_t>((counters[lane] >> (4 * bin)) & 15);
  for (int lane = 0; lane < kLanes; ++lane) counters[lane] = 0;
}

template <int kVersions>
void add_tile(const float* const* w, int64_t count, TileSums& sums) {
  constexpr int kSteps = kVersions - 1;
  uint64_t counters[kSteps][kLanes] = {};
  int filled = 0;
  for (int64_t at = 0; at < count; at += kLanes) {
    float delta[kSteps][kLanes];
    for (int v = 0; v < kVersions; ++v)
      for (int lane = 0; lane < kLanes; ++lane) {
        const double value = w[v][at + lane];
        sums.weight[v][lane] += value * value;
      }
    for (int s = 0; s < kSteps; ++s) {
      const float* before = w[s] + at;
      const float* after = w[s + 1] + at;
      for (int lane = 0; lane < kLanes; ++lane) delta[s][lane] = after[lane] - before[lane];
      for (int lane = 0; lane < kLanes; ++lane) {
        const double d = delta[s][lane];
        sums.square[s][lane] += d * d;
      }
      for (int lane = 0; lane < kLanes; ++lane) {
        const uint32_t magnitude = bits_of(delta[s][lane]) & 0x7fffffffu;
        float size;
        std::memcpy(&size, &magnitude, sizeof size);
        sums.max_abs[s][lane] = size > sums.max_abs[s][lane] ? size : sums.max_abs[s][lane];
        sums.identical[s][lane] += bits_of(before[lane]) == bits_of(after[lane]);
        sums.zero[s][lane] += magnitude == 0;
        // ⌊log2(|Δ|/ulp)⌋ from the exponent fields; a subnormal W has the spacing of exponent field 1.
        int32_t exponent_w = static_cast<int32_t>((bits_of(before[lane]) >> 23) & 255);
        exponent_w = exponent_w > 1 ? exponent_w : 1;
        int32_t bin = static_cast<int32_t>(magnitude >> 23) - exponent_w + 7 + 8;
        bin = bin < 0 ? 0 : bin > 15 ? 15 : bin;
        const uint64_t one = magnitude != 0;
        counters[s][lane] += one << (4 * static_cast<uint64_t>(bin));
      }
    }
    if constexpr (kSteps == 2) {
      for (int lane = 0; lane < kLanes; ++lane)
        sums.dot[lane] += static_cast<double>(delta[0][lane]) * static_cast<double>(delta[1][lane]);
      for (int lane = 0; lane < kLanes; ++lane) {
        const uint32_t a = bits_of(delta[0][lane]), b = bits_of(delta[1][lane]);
        const uint32_t both = ((a & 0x7fffffffu) != 0) & ((b & 0x7fffffffu) != 0);
        const uint32_t differ = (a ^ b) >> 31;
        sums.same[lane] += both & (differ ^ 1u);
        sums.opposite[lane] += both & differ;
      }
    }
    if (++filled == 15) {
      for (int s = 0; s < kSteps; ++s) empty_counters(counters[s], sums.ulps[s]);
      filled = 0;
    }
  }
  for (int s = 0; s < kSteps; ++s) empty_counters(counters[s], sums.ulps[s]);
}

}  // namespace

using AddTile = void (*)(const float* const* w, int versions, int64_t count, void* sums);
#define GALVANI_DEFINE_ADD_TILE(name)                                         \
  void name(const float* const* w, int versions, int64_t count, void* sums) { \
    if (versions == 2)                                                        \
      add_tile<2>(w, count, *static_cast<TileSums*>(sums));                   \
    else                                                                      \
      add_tile<3>(w, count, *static_cast<TileSums*>(sums));                   \
  }
void add_tile_avx2(const float* const* w, int versions, int64_t count, void* sums);
void add_tile_avx512(const float* const* w, int versions, int64_t count, void* sums);

}  // namespace galvani
