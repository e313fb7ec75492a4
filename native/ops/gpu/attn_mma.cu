// Attention by mma.sync (sm_80 and later): 64 query rows, four warps of 16, pages of 64 keys, cp.async in two stages.
// Causal, bidirectional and windowed; prefill, short suffixes packed over the heads of a group, and shared prefixes.
//
// Reads bfloat16; scores, softmax and sums are float32; weights are rounded to bfloat16 before they meet V.
#include "ops/gpu/attn_warp.h"
#include "ops/gpu/launchers.h"

namespace galvani::gpu {
namespace {

constexpr int kThreads = 128;

template <int D>
struct MmaStages {
  static constexpr int kTile = kPageKeys * TileLayout<D>::kRowBytes;
  static constexpr int kBytes = 4 * kTile;  // K and V, two stages each
};

template <int D, bool kStat, bool kEdge>
DEV_KERNEL(kThreads, 2)
attn_mma_kernel(const DEV_PARAM AttnParams p) {
  using Stages = MmaStages<D>;
  DEV_SHARED(shared);
  const auto k_tile = [&](int stage) { return shared + stage * Stages::kTile; };
  const auto v_tile = [&](int stage) { return shared + (2 + stage) * Stages::kTile; };
  const TileTables<kMmaRows> tables(shared + Stages::kBytes, p.segments, kStat);
  const int thread = dev::tid(), lane = thread & 31, warp = thread >> 5;
  const AttnItem item = p.items[dev::bid()];
  const PageRun* runs = p.runs + item.run_begin;

  // Descriptors are read two pages ahead: their latency would otherwise stand before every copy.
  const int last = item.run_count - 1;
  PageRun page[1] = {runs[0]}, next = runs[last < 1 ? last : 1];
  unsigned char* q_tile = v_tile(1);  // free until the second page
  load_queries<D, kMmaRows, kThreads>(q_tile, p, item, thread);
  dev::cp_commit();
  load_page<D, kThreads>(k_tile(0), p.k, p, page[0], item.kv_head, thread);
  dev::cp_commit();
  load_page<D, kThreads>(v_tile(0), p.v, p, page[0], item.kv_head, thread);
  dev::cp_commit();
  fill_tables<kMmaRows, kThreads, kStat, kEdge>(tables, p, item, thread);
  dev::cp_wait<2>();
  dev::sync();

  const int row = warp * 16 + fragment_row(lane, 0);
  WarpTile<D> tile;
  tile.begin(q_tile, warp * 16, lane);
  RowSoftmax<kMmaRows, kStat, kEdge> softmax(tables, p, item, row, lane);

  for (int i = 0; i < item.run_count; ++i) {
    const int stage = i & 1;
    const bool more = i < last;
    const PageRun after = runs[i + 2 < last ? i + 2 : last];
    dev::cp_wait<1>();  // K of this page
    dev::sync();        // and nobody reads K of the page before any more
    if (more) load_page<D, kThreads>(k_tile(stage ^ 1), p.k, p, next, item.kv_head, thread);
    dev::cp_commit();
    tile.scores(k_tile(stage), lane);
    float alpha[2];
    softmax.step(tile.s, page, item, i, alpha);
    dev::cp_wait<1>();  // V of this page
    dev::sync();        // and nobody reads V of the page before, nor Q, any more
    if (more) load_page<D, kThreads>(v_tile(stage ^ 1), p.v, p, next, item.kv_head, thread);
    dev::cp_commit();
    tile.values(v_tile(stage), alpha, lane);
    page[0] = next;
    next = after;
  }
  softmax.total();
  write_rows<D>(p, item, tables, softmax, tile.o, row, lane);
}

template <int D>
int launch(const AttnParams& p, void* stream) {
  const bool stat = wants_statistics(p), edge = has_edges(p);
  const size_t shared =
      MmaStages<D>::kBytes + sizeof(float) * static_cast<size_t>(TileTables<kMmaRows>::size(p.segments, stat, edge));
  const dev::Grid grid{p.item_count, 1};
  if (stat && edge) return DEV_LAUNCH((attn_mma_kernel<D, true, true>), grid, kThreads, shared, stream, p);
  if (stat) return DEV_LAUNCH((attn_mma_kernel<D, true, false>), grid, kThreads, shared, stream, p);
  if (edge) return DEV_LAUNCH((attn_mma_kernel<D, false, true>), grid, kThreads, shared, stream, p);
  return DEV_LAUNCH((attn_mma_kernel<D, false, false>), grid, kThreads, shared, stream, p);
}

}  // namespace

int attn_mma_launch(const AttnParams& p, void* stream) {
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
