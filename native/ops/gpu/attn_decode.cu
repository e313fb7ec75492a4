// Attention of few query rows (at most 16 (token, head) pairs of one KV head) over many keys: decoding. A work item is
// usually one split of the keys; attn_combine merges the splits. Two warps take alternate pages, each with its own K and
// V tile in flight, and merge at the end: bound by memory, so the arithmetic is the simplest there is.
#include "ops/gpu/attn_warp.h"
#include "ops/gpu/launchers.h"

namespace galvani::gpu {
namespace {

constexpr int kWarps = 2;
constexpr int kThreads = 32 * kWarps;

template <int D>
struct DecodeShared {
  static constexpr int kTile = kPageKeys * TileLayout<D>::kRowBytes;
  static constexpr int kQueries = kDecodeRows * TileLayout<D>::kRowBytes;
  static constexpr int kTables = kQueries + 2 * kWarps * kTile;  // offset of the warps' tables
};

// state ← state ∪ other, with O and the tables of the segments.
template <int D, bool kStat, bool kEdge>
DEV_FN void merge_warp(RowSoftmax<kDecodeRows, kStat, kEdge>& state, float (&o)[D / 8][4],
                       const TileTables<kDecodeRows>& tables, const TileTables<kDecodeRows>& other, const float* other_o,
                       const float* other_state, int lane) {
  DEV_UNROLL
  for (int r = 0; r < 2; ++r) {
    const int row = fragment_row(lane, 2 * r);
    const float m = other_state[row], l = other_state[kDecodeRows + row], t = other_state[2 * kDecodeRows + row];
    const float to = dev::max(state.m[r], m), d = state.m[r] - to, e = m - to;
    const float a = dev::ex2(d), b = dev::ex2(e);
    state.t[r] = a * dev::fma(d, state.l[r], state.t[r]) + b * dev::fma(e, l, t);
    state.l[r] = a * state.l[r] + b * l;
    state.m[r] = to;
    DEV_UNROLL
    for (int n = 0; n < D / 8; ++n)
      DEV_UNROLL
      for (int i = 2 * r; i < 2 * r + 2; ++i)
        o[n][i] = a * o[n][i] + b * other_o[row * D + n * 8 + fragment_column(lane, i)];
  }
  if constexpr (kStat) {
    for (int i = lane; i < kDecodeRows * tables.segments; i += 32) {
      const float to = dev::max(tables.m[i], other.m[i]);
      tables.l[i] = tables.l[i] * dev::ex2(tables.m[i] - to) + other.l[i] * dev::ex2(other.m[i] - to);
      tables.m[i] = to;
    }
    dev::sync_warp();
  }
}

template <int D, bool kStat, bool kEdge>
DEV_KERNEL(kThreads, 3)
attn_decode_kernel(const DEV_PARAM AttnParams p) {
  using Shared = DecodeShared<D>;
  DEV_SHARED(shared);
  const int thread = dev::tid(), lane = thread & 31, warp = thread >> 5;
  const AttnItem item = p.items[dev::bid()];
  const PageRun* runs = p.runs + item.run_begin;
  unsigned char* k_tile = shared + Shared::kQueries + warp * 2 * Shared::kTile;
  unsigned char* v_tile = k_tile + Shared::kTile;
  const int64_t table_bytes =
      static_cast<int64_t>(sizeof(float)) * TileTables<kDecodeRows>::size(p.segments, kStat, kEdge);
  const TileTables<kDecodeRows> tables(shared + Shared::kTables + warp * table_bytes, p.segments, kStat);

  load_queries<D, kDecodeRows, kThreads>(shared, p, item, thread);
  dev::cp_commit();
  PageRun page[1] = {runs[warp < item.run_count ? warp : 0]};
  if (warp < item.run_count) {
    load_page<D, 32>(k_tile, p.k, p, page[0], item.kv_head, lane);
    dev::cp_commit();
    load_page<D, 32>(v_tile, p.v, p, page[0], item.kv_head, lane);
    dev::cp_commit();
    dev::cp_wait<2>();
  } else {
    dev::cp_wait<0>();
  }
  fill_tables<kDecodeRows, 32, kStat, kEdge>(tables, p, item, lane);
  dev::sync();

  WarpTile<D> tile;
  tile.begin(shared, 0, lane);
  RowSoftmax<kDecodeRows, kStat, kEdge> softmax(tables, p, item, fragment_row(lane, 0), lane);
  for (int i = warp; i < item.run_count; i += kWarps) {
    const bool more = i + kWarps < item.run_count;
    const PageRun next = runs[more ? i + kWarps : i];
    dev::cp_wait<1>();  // K of this page
    dev::sync_warp();
    tile.scores(k_tile, lane);
    dev::sync_warp();  // every lane has read K
    if (more) load_page<D, 32>(k_tile, p.k, p, next, item.kv_head, lane);
    dev::cp_commit();
    float alpha[2];
    softmax.step(tile.s, page, item, i, alpha);
    dev::cp_wait<1>();  // V of this page
    dev::sync_warp();
    tile.values(v_tile, alpha, lane);
    dev::sync_warp();  // every lane has read V
    if (more) load_page<D, 32>(v_tile, p.v, p, next, item.kv_head, lane);
    dev::cp_commit();
    page[0] = next;
  }
  softmax.total();

  // The second warp hands its state over through its own tiles.
  float* other_o = reinterpret_cast<float*>(shared + Shared::kQueries + 2 * Shared::kTile);
  float* other_state = other_o + kDecodeRows * D;
  if (warp == 1) {
    DEV_UNROLL
    for (int r = 0; r < 2; ++r) {
      const int row = fragment_row(lane, 2 * r);
      DEV_UNROLL
      for (int n = 0; n < D / 8; ++n)
        DEV_UNROLL
        for (int i = 2 * r; i < 2 * r + 2; ++i) other_o[row * D + n * 8 + fragment_column(lane, i)] = tile.o[n][i];
      if ((lane & 3) == 0) {
        other_state[row] = softmax.m[r];
        other_state[kDecodeRows + row] = softmax.l[r];
        other_state[2 * kDecodeRows + row] = softmax.t[r];
      }
    }
  }
  dev::sync();
  if (warp == 1) return;
  const TileTables<kDecodeRows> other(shared + Shared::kTables + table_bytes, p.segments, kStat);
  merge_warp<D>(softmax, tile.o, tables, other, other_o, other_state, lane);
  write_rows<D>(p, item, tables, softmax, tile.o, fragment_row(lane, 0), lane);
}

template <int D>
int launch(const AttnParams& p, void* stream) {
  const bool stat = wants_statistics(p), edge = has_edges(p);
  const size_t shared = DecodeShared<D>::kTables + kWarps * sizeof(float) * static_cast<size_t>(TileTables<kDecodeRows>::size(
                                                                                p.segments, stat, edge));
  const dev::Grid grid{p.item_count, 1};
  if (stat && edge) return DEV_LAUNCH((attn_decode_kernel<D, true, true>), grid, kThreads, shared, stream, p);
  if (stat) return DEV_LAUNCH((attn_decode_kernel<D, true, false>), grid, kThreads, shared, stream, p);
  if (edge) return DEV_LAUNCH((attn_decode_kernel<D, false, true>), grid, kThreads, shared, stream, p);
  return DEV_LAUNCH((attn_decode_kernel<D, false, false>), grid, kThreads, shared, stream, p);
}

}  // namespace

int attn_decode_launch(const AttnParams& p, void* stream) {
  if (p.item_count == 0) return 0;
  switch (p.head_dim) {
    case 64:
      return launch<64>(p, stream);
    case 80:
      return launch<80>(p, stream);
    case 96:
      return launch<96>(p, stream);
    case 128:
      return launch<128>(p, stream);
  }
  return kUnsupported;
}

}  // namespace galvani::gpu
