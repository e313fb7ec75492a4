// The inner loops of delta_sums, compiled once per instruction set (reduce.cc, reduce_avx2.cc, reduce_avx512.cc).
// Eight lanes in GCC's vector types, the same for every instruction set, so that the sums have the same bits; each
// group of sums has a loop of its own over a tile in L1, so that its accumulators stay in registers.
// Everything here has internal linkage: two copies of one inline function with different flags would be merged.
#pragma once
#include <cstdint>
#include <cstring>

#pragma GCC diagnostic ignored "-Wpsabi"  // 32-byte vectors in registers or not: these functions are inlined or local

namespace galvani {
namespace {

constexpr int kLanes = 8;

// Sums over a band; a tile adds to them.
struct BandSums {
  double weight[3][kLanes];
  double sum[2][kLanes], square[2][kLanes], cube[2][kLanes], fourth[2][kLanes];
  uint32_t max_abs[2][kLanes];  // bits of |Δ|, which order as the values do
  uint32_t identical[2][kLanes];
  uint32_t zero[2][kLanes];
  int64_t ulps[2][16];
  double dot[kLanes];
  uint32_t same[kLanes], opposite[kLanes];
};

// One stretch of a row. w: rows of `count` widened weights, count a multiple of kLanes (the caller pads with zeros).
// delta[s]: room for as many. columns[s]: Σ Δ_s² per column, added to; may be null. row[s]: Σ Δ_s² of the stretch,
// written.
struct Tile {
  const float* w[3];
  float* delta[2];
  int64_t count;
  double* columns[2];
  double row[2];
};

typedef float F8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef float F4 __attribute__((vector_size(16)));
typedef double D4 __attribute__((vector_size(32), aligned(8), may_alias));
typedef uint32_t U8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t I8 __attribute__((vector_size(32)));
typedef uint32_t U4 __attribute__((vector_size(16)));
typedef uint64_t Q4 __attribute__((vector_size(32)));

inline F8 floats(const float* from) { return *reinterpret_cast<const F8*>(from); }
inline U8 bits(const float* from) { return *reinterpret_cast<const U8*>(from); }
inline D4 low(F8 v) { return __builtin_convertvector(__builtin_shufflevector(v, v, 0, 1, 2, 3), D4); }
inline D4 high(F8 v) { return __builtin_convertvector(__builtin_shufflevector(v, v, 4, 5, 6, 7), D4); }
inline Q4 low(U8 v) { return __builtin_convertvector(__builtin_shufflevector(v, v, 0, 1, 2, 3), Q4); }
inline Q4 high(U8 v) { return __builtin_convertvector(__builtin_shufflevector(v, v, 4, 5, 6, 7), Q4); }
inline D4 load(const double* from) { return *reinterpret_cast<const D4*>(from); }
inline void store(double* to, D4 v) { *reinterpret_cast<D4*>(to) = v; }
inline U8 load(const uint32_t* from) { return *reinterpret_cast<const U8*>(from); }
inline void store(uint32_t* to, U8 v) { *reinterpret_cast<U8*>(to) = v; }

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

void add_columns(const float* delta, int64_t count, double* columns) {
  for (int64_t at = 0; at < count; at += kLanes) {
    const F8 d = floats(delta + at);
    const D4 x0 = low(d), x1 = high(d);
    store(columns + at, load(columns + at) + x0 * x0);
    store(columns + at + 4, load(columns + at + 4) + x1 * x1);
  }
}

// Counts of one step. The histogram has 16 four-bit counters in one word per lane: no table in memory, so the loop
// vectorises; every 15 rounds they are added to counters of eight bits, which hold for 17 of those.
void add_counts(const float* before, const float* after, const float* delta, int64_t count, BandSums& sums, int step) {
  U8 largest = load(sums.max_abs[step]), identical = load(sums.identical[step]), zero = load(sums.zero[step]);
  constexpr int64_t kRound = 15 * kLanes, kNibbles = 0x0f0f0f0f0f0f0f0f;
  for (int64_t begin = 0; begin < count; begin += 17 * kRound) {
    Q4 even[2]{}, odd[2]{};
    const int64_t end = begin + 17 * kRound < count ? begin + 17 * kRound : count;
    for (int64_t round = begin; round < end; round += kRound) {
      Q4 counters[2]{};
      const int64_t last = round + kRound < end ? round + kRound : end;
      for (int64_t at = round; at < last; at += kLanes) {
        const U8 a = bits(before + at), b = bits(after + at), magnitude = bits(delta + at) & 0x7fffffffu;
        largest = magnitude > largest ? magnitude : largest;
        const U8 unmoved = magnitude == 0u;  // all ones where true
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
        even[half] += counters[half] & static_cast<uint64_t>(kNibbles);
        odd[half] += (counters[half] >> 4) & static_cast<uint64_t>(kNibbles);
      }
    }
    for (int half = 0; half < 2; ++half)
      for (int lane = 0; lane < 4; ++lane)
        for (int byte = 0; byte < 8; ++byte) {
          sums.ulps[step][2 * byte] += static_cast<int64_t>((even[half][lane] >> (8 * byte)) & 255);
          sums.ulps[step][2 * byte + 1] += static_cast<int64_t>((odd[half][lane] >> (8 * byte)) & 255);
        }
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

void add_tile(Tile& tile, int versions, BandSums& sums) {
  const int64_t count = tile.count;
  for (int v = 0; v < versions; ++v) add_products(tile.w[v], tile.w[v], count, sums.weight[v]);
  for (int s = 0; s + 1 < versions; ++s) {
    const float *before = tile.w[s], *after = tile.w[s + 1];
    float* delta = tile.delta[s];
    for (int64_t at = 0; at < count; at += kLanes)
      *reinterpret_cast<F8*>(delta + at) = floats(after + at) - floats(before + at);
    tile.row[s] = add_moments(delta, count, sums.sum[s], sums.square[s], sums.cube[s], sums.fourth[s]);
    if (tile.columns[s]) add_columns(delta, count, tile.columns[s]);
    add_counts(before, after, delta, count, sums, s);
  }
  if (versions == 3) {
    add_products(tile.delta[0], tile.delta[1], count, sums.dot);
    add_signs(tile.delta[0], tile.delta[1], count, sums);
  }
}

}  // namespace

// `tile` and `sums` are a Tile and a BandSums: types of internal linkage cannot stand in a shared signature.
using AddTile = void (*)(void* tile, int versions, void* sums);
#define GALVANI_DEFINE_ADD_TILE(name)                                           \
  void name(void* tile, int versions, void* sums) {                             \
    add_tile(*static_cast<Tile*>(tile), versions, *static_cast<BandSums*>(sums)); \
  }
void add_tile_avx2(void* tile, int versions, void* sums);
void add_tile_avx512(void* tile, int versions, void* sums);

}  // namespace galvani
