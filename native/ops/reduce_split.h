// The first half of a tile's work (reduce_chunk.h): entries whose bits are equal in every version are told from those
// that moved. The former need nothing but Σ W², once for all versions; the latter are packed together, in order, and
// only they are worked on further. Fine-tuning in bf16 leaves most entries as they were (nine in ten after RL at its
// usual learning rates), and what is packed, and hence every sum, is the same on every instruction set.
#pragma once
#include <array>
#include <cstdint>

#include "ops/reduce_lanes.h"

namespace galvani {
namespace {

// One bit per lane.
inline unsigned mask_of(U8 truth) {
#if defined(__AVX2__)
  return static_cast<unsigned>(_mm256_movemask_ps(reinterpret_cast<__m256>(truth)));
#else
  unsigned mask = 0;
  for (int lane = 0; lane < kLanes; ++lane) mask |= (truth[lane] >> 31) << lane;
  return mask;
#endif
}

#if defined(__AVX2__) && !defined(__AVX512VL__)
// For each mask the lanes it names, in order; then anything.
constexpr std::array<std::array<uint8_t, kLanes>, 256> kPacking = [] {
  std::array<std::array<uint8_t, kLanes>, 256> table{};
  for (unsigned mask = 0; mask < 256; ++mask)
    for (unsigned lane = 0, at = 0; lane < kLanes; ++lane)
      if (mask >> lane & 1) table[mask][at++] = static_cast<uint8_t>(lane);
  return table;
}();
#endif

// The lanes named by `mask`, one after another; may write all eight places.
inline void pack(U8 values, unsigned mask, uint32_t* to) {
#if defined(__AVX512VL__)
  store(to, reinterpret_cast<U8>(_mm256_maskz_compress_epi32(static_cast<__mmask8>(mask), reinterpret_cast<__m256i>(values))));
#elif defined(__AVX2__)
  const __m128i order = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kPacking[mask].data()));
  store(to, reinterpret_cast<U8>(_mm256_permutevar8x32_epi32(reinterpret_cast<__m256i>(values), _mm256_cvtepu8_epi32(order))));
#else
  for (int lane = 0; lane < kLanes; ++lane) {
    *to = values[lane];
    to += mask >> lane & 1;
  }
#endif
}

// Entries of one tile that moved between any two versions, padded with zeros to whole vectors.
struct Moved {
  alignas(32) float w[3][kTile + kLanes];
  alignas(32) uint32_t place[kTile + kLanes];  // in the tile
  int64_t count, padded;
};

// Adds Σ W² of the entries that did not move to `lanes` and packs the others. False, with nothing added, when some
// entry is not finite. Word: float, or uint16_t for bf16 as stored.
template <int kVersions, typename Word>
bool split(const Word* const* w, int64_t count, Moved& moved, double* lanes) {
  D4 x = load(lanes), y = load(lanes + 4);
  U8 largest{}, place = {0, 1, 2, 3, 4, 5, 6, 7};
  int64_t n = 0;
  for (int64_t at = 0; at < count; at += kLanes, place += static_cast<uint32_t>(kLanes)) {
    U8 version[kVersions], different{};
    for (int v = 0; v < kVersions; ++v) {
      version[v] = bits(w[v] + at);
      const U8 magnitude = version[v] & 0x7fffffffu;
      largest = magnitude > largest ? magnitude : largest;
      if (v > 0) different |= version[v] ^ version[0];
    }
    const U8 did = static_cast<U8>(different != 0u);
    const F8 still = reinterpret_cast<F8>(version[0] & ~did);
    x += low(still) * low(still);
    y += high(still) * high(still);
    const unsigned mask = mask_of(did);
    for (int v = 0; v < kVersions; ++v) pack(version[v], mask, reinterpret_cast<uint32_t*>(moved.w[v]) + n);
    pack(place, mask, moved.place + n);
    n += __builtin_popcount(mask);
  }
  for (int lane = 0; lane < kLanes; ++lane)
    if (largest[lane] >= 0x7f800000u) return false;
  store(lanes, x);
  store(lanes + 4, y);
  moved.count = n;
  moved.padded = (n + kLanes - 1) / kLanes * kLanes;
  for (int v = 0; v < kVersions; ++v) store(reinterpret_cast<uint32_t*>(moved.w[v]) + n, U8{});
  return true;
}

}  // namespace
}  // namespace galvani
