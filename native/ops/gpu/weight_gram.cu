// Gram matrix of an update on the float64 tensor cores (weights_types.h): what a spectrum costs most of.
//
// A block of four warps owns 64 × 64 entries of G, a warp 32 × 32 as 4 × 4 products of m8n8k4. Of the long side 16 entries
// lie in shared memory as float64 while the next 16 come into registers; the difference is taken on the way. A row of
// shared memory holds 20 doubles: rows 0 … 3 then begin four doubles apart in the 32 banks, and the 4 × 4 doubles that a
// half-warp reads as a fragment are all banks once.
//
// Not yet run on hardware. Estimate for 3584 × 18944: 1.2e11 multiply-adds, 4 ms at the H100's 67 TFLOP/s.
#include "ops/gpu/dev.h"
#include "ops/gpu/launchers.h"
#include "ops/gpu/weight_load.h"

namespace galvani::gpu {
namespace {

constexpr int kThreads = 128, kTile = 64, kStep = 16, kStride = kStep + 4;
constexpr int kEach = kTile * kStep / kThreads;  // elements a thread brings of a tile
constexpr int kTileDoubles = kTile * kStride;
constexpr size_t kShared = 2 * 2 * kTileDoubles * sizeof(double);  // two stages of two tiles

struct Source {
  const WeightGramParams& p;
  int64_t small, length;
  bool wide;  // rows ≤ columns: the small side is the rows

  // Element t of row i of the small side; zero outside.
  DEV_FN float at(int64_t i, int64_t t) const {
    if (i >= small || t >= length) return 0.0f;
    const int64_t index = wide ? i * p.columns + t : t * p.columns + i;
    const float after = load_weight(p.after, p.after_type, index);
    return p.before ? after - load_weight(p.before, p.before_type, index) : after;
  }

  // Neighbouring threads take neighbouring elements in memory.
  DEV_FN int tile_row(int e) const { return wide ? dev::tid() / kStep + kThreads / kStep * e : dev::tid() % kTile; }
  DEV_FN int tile_step(int e) const { return wide ? dev::tid() % kStep : dev::tid() / kTile + kThreads / kTile * e; }

  DEV_FN void fetch(int64_t row0, int64_t t0, float (&to)[kEach]) const {
    DEV_UNROLL
    for (int e = 0; e < kEach; ++e) to[e] = at(row0 + tile_row(e), t0 + tile_step(e));
  }
  DEV_FN void put(const float (&from)[kEach], double* tile) const {
    DEV_UNROLL
    for (int e = 0; e < kEach; ++e) tile[tile_row(e) * kStride + tile_step(e)] = static_cast<double>(from[e]);
  }
};

DEV_KERNEL(kThreads, 3) weight_gram_kernel(DEV_PARAM const WeightGramParams p) {
  DEV_SHARED(shared);
  if (dev::bid_y() > dev::bid()) return;  // below the diagonal
  double* const tiles = reinterpret_cast<double*>(shared);
  const bool wide = p.rows <= p.columns;
  const Source source{p, wide ? p.rows : p.columns, wide ? p.columns : p.rows, wide};
  const int64_t row0 = static_cast<int64_t>(dev::bid_y()) * kTile, column0 = static_cast<int64_t>(dev::bid()) * kTile;
  const int lane = dev::tid() & 31, warp = dev::tid() >> 5;
  const int warp_row = warp / 2 * 32, warp_column = warp % 2 * 32;
  const int group = lane >> 2, member = lane & 3;

  double sums[4][4][2];
  DEV_UNROLL
  for (int i = 0; i < 4; ++i)
    DEV_UNROLL
    for (int j = 0; j < 4; ++j) sums[i][j][0] = sums[i][j][1] = 0.0;

  float left[kEach], right[kEach];
  source.fetch(row0, 0, left);
  source.fetch(column0, 0, right);
  int stage = 0;
  for (int64_t t = 0; t < source.length; t += kStep, stage ^= 1) {
    double* const rows = tiles + stage * 2 * kTileDoubles;
    double* const columns = rows + kTileDoubles;
    source.put(left, rows);
    source.put(right, columns);
    dev::sync();  // this stage is there for everyone, and nobody reads the other one any more
    source.fetch(row0, t + kStep, left);
    source.fetch(column0, t + kStep, right);
    DEV_UNROLL
    for (int k = 0; k < kStep; k += 4) {
      double a[4], b[4];
      DEV_UNROLL
      for (int i = 0; i < 4; ++i) {
        a[i] = rows[(warp_row + 8 * i + group) * kStride + k + member];
        b[i] = columns[(warp_column + 8 * i + group) * kStride + k + member];
      }
      DEV_UNROLL
      for (int i = 0; i < 4; ++i)
        DEV_UNROLL
        for (int j = 0; j < 4; ++j) dev::mma_f64(sums[i][j], a[i], b[j]);
    }
  }

  DEV_UNROLL
  for (int i = 0; i < 4; ++i)
    DEV_UNROLL
    for (int j = 0; j < 4; ++j)
      DEV_UNROLL
      for (int e = 0; e < 2; ++e) {
        const int64_t row = row0 + warp_row + 8 * i + group, column = column0 + warp_column + 8 * j + 2 * member + e;
        if (row <= column && column < source.small) p.gram[row * source.small + column] = sums[i][j][e];
      }
}

}  // namespace

int weight_gram_launch(const WeightGramParams& p, void* stream) {
  const int64_t small = p.rows < p.columns ? p.rows : p.columns, tiles = (small + kTile - 1) / kTile;
  if (p.rows < 0 || p.columns < 0 || tiles > kMaxGridY)
    return refuse("%lld × %lld", static_cast<long long>(p.rows), static_cast<long long>(p.columns));
  const void* const weights[] = {p.after, p.before};
  const WeightType types[] = {p.after_type, p.before_type};
  if (const int code = refuse_weights(weights, types, p.before ? 2 : 1)) return code;
  return DEV_LAUNCH(weight_gram_kernel, (dev::Grid{tiles, tiles}), kThreads, kShared, stream, p);
}

}  // namespace galvani::gpu
