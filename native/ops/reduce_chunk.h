// The inner loops of delta_sums, compiled once per instruction set (reduce.cc, reduce_avx2.cc, reduce_avx512.cc).
// The same eight lanes everywhere (reduce_lanes.h), so that the sums have the same bits; entries that did not move are
// done with after reduce_split.h; for the others each group of sums has a loop of its own, so that its accumulators
// stay in registers.
#pragma once
#include <cstdint>

#include "ops/reduce_lanes.h"
#include "ops/reduce_split.h"

namespace galvani {
namespace {

// Sums over a band; a tile adds to them.
struct BandSums {
  double still[kLanes];      // Σ W² of entries equal in every version
  int64_t still_count;       // how many, less the padding of those that moved
  double weight[3][kLanes];  // Σ W² of the others
  double sum[2][kLanes], square[2][kLanes], cube[2][kLanes], fourth[2][kLanes];
  uint32_t max_abs[2][kLanes];    // bits of |Δ|, which order as the values do
  uint32_t identical[2][kLanes];  // beside still_count
  uint32_t zero[2][kLanes];       // likewise
  // The histogram, bins 2b and 2b + 1 in byte b of each lane, and how often these were added to since they were spilt.
  uint64_t even[2][kLanes], odd[2][kLanes];
  int rounds[2];
  int64_t ulps[2][16];
  double dot[kLanes];
  uint32_t same[kLanes], opposite[kLanes];
};

// One stretch of a row. w: `count` widened weights each, count a multiple of kLanes (the caller pads with zeros); or, where
// all versions are bf16, bf16[v]: the same as stored, which saves writing and reading them once more (else null).
// columns[s]: Σ Δ_s² per column, added to; may be null. row[s]: Σ Δ_s² of the stretch, written.
struct Tile {
  const float* w[3];
  const uint16_t* bf16[3];
  int64_t count;
  double* columns[2];
  double row[2];
};

void add_products(const float* a, const float* b, int64_t count, double* lanes) {
  D4 x = load(lanes), y = load(lanes + 4);
  for (int64_t at = 0; at < count; at += kLanes) {
    const F8 u = floats(a + at), v = floats(b + at);
    x += low(u) * low(v);
    y += high(u) * high(v);
  }
  store(lanes, x);
  store(lanes + 4, y);
}

double add_moments(const float* delta, int64_t count, double* sum, double* square, double* cube, double* fourth) {
  D4 a0 = load(sum), a1 = load(sum + 4), b0{}, b1{}, c0 = load(cube), c1 = load(cube + 4), d0 = load(fourth),
     d1 = load(fourth + 4);
  for (int64_t at = 0; at < count; at += kLanes) {
    const F8 d = floats(delta + at), q = d * d;
    const D4 x0 = low(d), x1 = high(d), q0 = low(q), q1 = high(q);
    a0 += x0;
    a1 += x1;
    b0 += x0 * x0;
    b1 += x1 * x1;
    c0 += q0 * x0;
    c1 += q1 * x1;
    d0 += q0 * q0;
    d1 += q1 * q1;
  }
  store(sum, a0);
  store(sum + 4, a1);
  store(cube, c0);
  store(cube + 4, c1);
  store(fourth, d0);
  store(fourth + 4, d1);
  store(square, load(square) + b0);
  store(square + 4, load(square + 4) + b1);
  return ((b0[0] + b0[1]) + (b0[2] + b0[3])) + ((b1[0] + b1[1]) + (b1[2] + b1[3]));
}

// Entry by entry where few moved, else all of them; the same sums either way.
template <typename Word>
void add_columns(const Tile& tile, const Word* const* w, const Moved& moved, const float* delta, int step) {
  double* columns = tile.columns[step];
  if (4 * moved.count < tile.count) {
    for (int64_t i = 0; i < moved.count; ++i) {
      const double d = static_cast<double>(delta[i]);
      columns[moved.place[i]] += d * d;
    }
    return;
  }
  for (int64_t at = 0; at < tile.count; at += kLanes) {
    const F8 d = floats(w[step + 1] + at) - floats(w[step] + at);
    const D4 x0 = low(d), x1 = high(d);
    store(columns + at, load(columns + at) + x0 * x0);
    store(columns + at + 4, load(columns + at + 4) + x1 * x1);
  }
}

void spill_ulps(BandSums& sums, int step) {
  for (int lane = 0; lane < kLanes; ++lane)
    for (int byte = 0; byte < 8; ++byte) {
      sums.ulps[step][2 * byte] += static_cast<int64_t>((sums.even[step][lane] >> (8 * byte)) & 255);
      sums.ulps[step][2 * byte + 1] += static_cast<int64_t>((sums.odd[step][lane] >> (8 * byte)) & 255);
    }
  for (int lane = 0; lane < kLanes; ++lane) sums.even[step][lane] = sums.odd[step][lane] = 0;
  sums.rounds[step] = 0;
}

// Counts of one step. The histogram has 16 four-bit counters in one word per lane: no table in memory, so the loop
// vectorises; every 15 vectors they are added to counters of eight bits, which hold for 17 of those.
void add_counts(const float* before, const float* after, const float* delta, int64_t count, BandSums& sums, int step) {
  U8 largest = load(sums.max_abs[step]), identical = load(sums.identical[step]), zero = load(sums.zero[step]);
  constexpr int64_t kRound = 15 * kLanes;
  constexpr uint64_t kNibbles = 0x0f0f0f0f0f0f0f0f;
  for (int64_t round = 0; round < count; round += kRound) {
    Q4 counters[2]{};
    const int64_t last = round + kRound < count ? round + kRound : count;
    for (int64_t at = round; at < last; at += kLanes) {
      const U8 a = bits(before + at), b = bits(after + at), magnitude = bits(delta + at) & 0x7fffffffu;
      largest = magnitude > largest ? magnitude : largest;
      const U8 unmoved = static_cast<U8>(magnitude == 0u);  // all ones where true
      identical -= static_cast<U8>(a == b);
      zero -= unmoved;
      // ⌊log2(|Δ|/ulp)⌋ from the exponent fields; a subnormal W has the spacing of exponent field 1.
      I8 exponent = reinterpret_cast<I8>((a >> 23) & 255u);
      exponent = exponent > 1 ? exponent : I8{} + 1;
      I8 bin = reinterpret_cast<I8>(magnitude >> 23) - exponent + 15;
      bin = bin < 0 ? I8{} : bin;
      bin = bin > 15 ? I8{} + 15 : bin;
      const U8 shift = reinterpret_cast<U8>(bin) * 4u, one = ~unmoved & 1u;
      counters[0] += low(one) << low(shift);
      counters[1] += high(one) << high(shift);
    }
    for (int half = 0; half < 2; ++half) {
      uint64_t *even = sums.even[step] + 4 * half, *odd = sums.odd[step] + 4 * half;
      store(even, load(even) + (counters[half] & kNibbles));
      store(odd, load(odd) + ((counters[half] >> 4) & kNibbles));
    }
    if (++sums.rounds[step] == 17) spill_ulps(sums, step);
  }
  store(sums.max_abs[step], largest);
  store(sums.identical[step], identical);
  store(sums.zero[step], zero);
}

void add_signs(const float* first, const float* second, int64_t count, BandSums& sums) {
  U8 same = load(sums.same), opposite = load(sums.opposite);
  for (int64_t at = 0; at < count; at += kLanes) {
    const U8 a = bits(first + at), b = bits(second + at);
    const U8 both = static_cast<U8>((a & 0x7fffffffu) != 0u) & static_cast<U8>((b & 0x7fffffffu) != 0u) & 1u;
    const U8 differ = (a ^ b) >> 31;
    same += both & ~differ;
    opposite += both & differ;
  }
  store(sums.same, same);
  store(sums.opposite, opposite);
}

template <typename Word>
bool add_words(Tile& tile, const Word* const* w, int versions, BandSums& sums) {
  Moved moved;
  if (!(versions == 3 ? split<3>(w, tile.count, moved, sums.still) : split<2>(w, tile.count, moved, sums.still))) return false;
  sums.still_count += tile.count - moved.padded;
  const int64_t count = moved.padded;
  alignas(32) float delta[2][kTile];
  for (int v = 0; v < versions; ++v) add_products(moved.w[v], moved.w[v], count, sums.weight[v]);
  for (int s = 0; s + 1 < versions; ++s) {
    const float *before = moved.w[s], *after = moved.w[s + 1];
    for (int64_t at = 0; at < count; at += kLanes)
      *reinterpret_cast<F8*>(delta[s] + at) = floats(after + at) - floats(before + at);
    tile.row[s] = add_moments(delta[s], count, sums.sum[s], sums.square[s], sums.cube[s], sums.fourth[s]);
    if (tile.columns[s]) add_columns(tile, w, moved, delta[s], s);
    add_counts(before, after, delta[s], count, sums, s);
  }
  if (versions == 3) {
    add_products(delta[0], delta[1], count, sums.dot);
    add_signs(delta[0], delta[1], count, sums);
  }
  return true;
}

// False, with nothing added, when some entry is not finite.
bool add_tile(Tile& tile, int versions, BandSums& sums) {
  return tile.bf16[0] ? add_words(tile, tile.bf16, versions, sums) : add_words(tile, tile.w, versions, sums);
}

}  // namespace

// `tile` and `sums` are a Tile and a BandSums: types of internal linkage cannot stand in a shared signature.
using AddTile = bool (*)(void* tile, int versions, void* sums);
#define GALVANI_DEFINE_ADD_TILE(name)                                                    \
  bool name(void* tile, int versions, void* sums) {                                      \
    return add_tile(*static_cast<Tile*>(tile), versions, *static_cast<BandSums*>(sums)); \
  }
bool add_tile_avx2(void* tile, int versions, void* sums);
bool add_tile_avx512(void* tile, int versions, void* sums);

}  // namespace galvani
