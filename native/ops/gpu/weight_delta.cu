// One pass over two or three versions of a weight tensor (weights_types.h; meaning: ops/reduce.h). Eight elements per
// thread and round, read as 16 bytes; a block owns one chunk and writes its totals, a second kernel adds those in order.
//
// Not yet run on hardware. Estimate for two bfloat16 versions: 3.35 TB/s leaves an H100 about 35 lane-instructions per
// element; six float64 operations at half rate take 12 of them, but the four conversions to float64 run at a fraction
// of the rate and may be what limits this kernel, before memory.
#include "ops/gpu/dev.h"
#include "ops/gpu/launchers.h"
#include "ops/gpu/refuse.h"
#include "ops/gpu/weight_load.h"

namespace galvani::gpu {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kFinishThreads = 64;
constexpr int kRounds = static_cast<int>(kDeltaChunk / (8 * kThreads));
static_assert(8 * kRounds <= 255, "a thread's histogram counts in bytes");
constexpr int kMaxima = 2;

// A thread's share. The histogram has 16 counters of eight bits: even bins, odd bins.
template <int kSteps>
struct Share {
  double weight[kSteps + 1] = {}, sum[kSteps] = {}, square[kSteps] = {}, cube[kSteps] = {}, fourth[kSteps] = {};
  double dot = 0;
  uint32_t largest[kSteps] = {}, identical[kSteps] = {}, zero[kSteps] = {};
  uint32_t non_finite = 0, same = 0, opposite = 0;
  uint64_t even[kSteps] = {}, odd[kSteps] = {};
};

template <int kSteps>
DEV_FN void add8(Share<kSteps>& share, float (&w)[kSteps + 1][8], int valid) {
  uint64_t bins[kSteps] = {};  // 16 counters of four bits; eight elements fit
  DEV_UNROLL
  for (int i = 0; i < 8; ++i) {
    bool finite = true;
    DEV_UNROLL
    for (int v = 0; v <= kSteps; ++v) finite = finite && (as_bits(w[v][i]) & 0x7f800000u) != 0x7f800000u;
    const bool counts = i < valid && finite;
    share.non_finite += i < valid && !finite;
    float delta[kSteps];
    DEV_UNROLL
    for (int v = 0; v <= kSteps; ++v) {
      const float x = counts ? w[v][i] : 0.0f;
      share.weight[v] += static_cast<double>(x) * static_cast<double>(x);
    }
    DEV_UNROLL
    for (int s = 0; s < kSteps; ++s) {
      const uint32_t before = as_bits(w[s][i]);
      const float d = counts ? w[s + 1][i] - w[s][i] : 0.0f, q = d * d;
      delta[s] = d;
      const double x = d, y = q;
      share.sum[s] += x;
      share.square[s] += x * x;
      share.cube[s] += y * x;
      share.fourth[s] += y * y;
      const uint32_t magnitude = as_bits(d) & 0x7fffffffu;
      share.largest[s] = magnitude > share.largest[s] ? magnitude : share.largest[s];
      share.identical[s] += counts && before == as_bits(w[s + 1][i]);
      share.zero[s] += counts && magnitude == 0;
      // ⌊log2(|Δ|/ulp)⌋ from the exponent fields; a subnormal W has the spacing of exponent field 1.
      int exponent = static_cast<int>(before >> 23 & 255u);
      exponent = exponent > 1 ? exponent : 1;
      int bin = static_cast<int>(magnitude >> 23) - exponent + 15;
      bin = bin < 0 ? 0 : bin > 15 ? 15 : bin;
      bins[s] += static_cast<uint64_t>(magnitude != 0) << (4 * bin);
    }
    if constexpr (kSteps == 2) {
      share.dot += static_cast<double>(delta[0]) * static_cast<double>(delta[1]);
      const bool both = delta[0] != 0.0f && delta[1] != 0.0f;
      const bool differ = (as_bits(delta[0]) ^ as_bits(delta[1])) >> 31;
      share.same += both && !differ;
      share.opposite += both && differ;
    }
  }
  constexpr uint64_t kNibbles = 0x0f0f0f0f0f0f0f0full;
  DEV_UNROLL
  for (int s = 0; s < kSteps; ++s) {
    share.even[s] += bins[s] & kNibbles;
    share.odd[s] += bins[s] >> 4 & kNibbles;
  }
}

// Shared memory: (kWarps, doubles), (kWarps, maxima), (kWarps, integers).
constexpr size_t kShared = kWarps * (8 * kDeltaDoubles + 4 * kMaxima + 4 * kDeltaIntegers);

template <int kSteps>
DEV_KERNEL(kThreads, 2) weight_delta_kernel(DEV_PARAM const WeightDeltaParams p) {
  DEV_SHARED(shared);
  const int warp = dev::tid() >> 5;
  const bool first_lane = (dev::tid() & 31) == 0;
  const int64_t begin = dev::bid() * kDeltaChunk + 8 * dev::tid();
  Share<kSteps> share;
  for (int round = 0; round < kRounds; ++round) {
    const int64_t at = begin + static_cast<int64_t>(round) * 8 * kThreads, left = p.elements - at;
    if (left <= 0) break;
    const int valid = left < 8 ? static_cast<int>(left) : 8;
    float w[kSteps + 1][8];
    DEV_UNROLL
    for (int v = 0; v <= kSteps; ++v) load_weights(p.versions[v], p.types[v], at, valid, w[v]);
    add8<kSteps>(share, w, valid);
  }

  double* doubles = reinterpret_cast<double*>(shared) + warp * kDeltaDoubles;
  uint32_t* maxima = reinterpret_cast<uint32_t*>(shared + kWarps * 8 * kDeltaDoubles) + warp * kMaxima;
  uint32_t* integers =
      reinterpret_cast<uint32_t*>(shared + kWarps * (8 * kDeltaDoubles + 4 * kMaxima)) + warp * kDeltaIntegers;
  auto keep = [&](int index, double v) {
    v = warp_total(v);
    if (first_lane) doubles[index] = v;
  };
  auto count = [&](int index, uint32_t v) {
    v = warp_total(v);
    if (first_lane) integers[index] = v;
  };
  DEV_UNROLL
  for (int v = 0; v < 3; ++v) keep(v, v <= kSteps ? share.weight[v <= kSteps ? v : 0] : 0.0);
  keep(3, share.dot);
  count(0, share.non_finite);
  count(1, share.same);
  count(2, share.opposite);
  DEV_UNROLL
  for (int s = 0; s < 2; ++s) {
    const bool has = s < kSteps;
    const int from = has ? s : 0;
    keep(4 + 4 * s, has ? share.sum[from] : 0.0);
    keep(5 + 4 * s, has ? share.square[from] : 0.0);
    keep(6 + 4 * s, has ? share.cube[from] : 0.0);
    keep(7 + 4 * s, has ? share.fourth[from] : 0.0);
    const uint32_t largest = warp_largest(has ? share.largest[from] : 0u);
    if (first_lane) maxima[s] = largest;
    const int base = 3 + s * (2 + kDeltaUlpBins);
    count(base, has ? share.identical[from] : 0u);
    count(base + 1, has ? share.zero[from] : 0u);
    DEV_UNROLL
    for (int bin = 0; bin < kDeltaUlpBins; ++bin) {
      const uint64_t bytes = bin % 2 ? share.odd[from] : share.even[from];
      count(base + 2 + bin, has ? static_cast<uint32_t>(bytes >> (8 * (bin / 2))) & 255u : 0u);
    }
  }
  dev::sync();

  const int t = dev::tid();
  DeltaTotals* out = p.partial + dev::bid();
  const double* d = reinterpret_cast<const double*>(shared);
  const uint32_t* m = reinterpret_cast<const uint32_t*>(shared + kWarps * 8 * kDeltaDoubles);
  const uint32_t* c = m + kWarps * kMaxima;
  if (t < kDeltaDoubles) {
    double sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += d[w * kDeltaDoubles + t];
    out->weight_square[t] = sum;  // the first of kDeltaDoubles in a row
  } else if (t < kDeltaDoubles + kMaxima) {
    uint32_t largest = 0;
    for (int w = 0; w < kWarps; ++w) {
      const uint32_t other = m[w * kMaxima + t - kDeltaDoubles];
      largest = other > largest ? other : largest;
    }
    out->max_abs[t - kDeltaDoubles] = as_float(largest);
  } else if (t < kDeltaDoubles + kMaxima + kDeltaIntegers) {
    const int index = t - kDeltaDoubles - kMaxima;
    int64_t sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += c[w * kDeltaIntegers + index];
    reinterpret_cast<int64_t*>(&out->counts)[index] = sum;
  }
}

// One thread per number, blocks in order.
DEV_KERNEL(kFinishThreads, 1) weight_delta_finish_kernel(DEV_PARAM const WeightDeltaParams p) {
  const int t = dev::tid();
  const int64_t blocks = (p.elements + kDeltaChunk - 1) / kDeltaChunk;
  const double* first = reinterpret_cast<const double*>(p.partial);
  constexpr int64_t kStride = sizeof(DeltaTotals) / 8;
  double* out = reinterpret_cast<double*>(p.totals);
  if (t < kDeltaDoubles) {
    double sum = 0;
    for (int64_t b = 0; b < blocks; ++b) sum += first[b * kStride + t];
    out[t] = sum;
  } else if (t < kDeltaDoubles + kMaxima) {
    double largest = 0;
    for (int64_t b = 0; b < blocks; ++b) largest = first[b * kStride + t] > largest ? first[b * kStride + t] : largest;
    out[t] = largest;
  } else if (t < kDeltaDoubles + kMaxima + kDeltaIntegers) {
    const int64_t* counts = reinterpret_cast<const int64_t*>(p.partial);
    int64_t sum = 0;
    for (int64_t b = 0; b < blocks; ++b) sum += counts[b * kStride + t];
    reinterpret_cast<int64_t*>(p.totals)[t] = sum;
  }
}
static_assert(sizeof(DeltaTotals) == 8 * (kDeltaDoubles + kMaxima + kDeltaIntegers));
static_assert(kFinishThreads >= kDeltaDoubles + kMaxima + kDeltaIntegers);

}  // namespace

int weight_delta_launch(const WeightDeltaParams& p, void* stream) {
  if (p.count != 2 && p.count != 3) return refuse("%d versions; expected 2 or 3", p.count);
  if (p.elements < 0 || p.elements > kDeltaChunk * INT32_MAX) return refuse("%lld elements", static_cast<long long>(p.elements));
  if (const int code = refuse_weights(p.versions, p.types, p.count)) return code;
  const dev::Grid grid{(p.elements + kDeltaChunk - 1) / kDeltaChunk, 1};
  const int code = p.count == 2 ? DEV_LAUNCH((weight_delta_kernel<1>), grid, kThreads, kShared, stream, p)
                                : DEV_LAUNCH((weight_delta_kernel<2>), grid, kThreads, kShared, stream, p);
  return code ? code : DEV_LAUNCH(weight_delta_finish_kernel, (dev::Grid{1, 1}), kFinishThreads, 0, stream, p);
}

}  // namespace galvani::gpu
