// Attention for Hopper (sm_90a, D = 128): the same work items, hooks and results as attn_mma, for long prefill. One warp of
// the first warpgroup feeds shared memory by TMA; two consumer warpgroups of 64 query rows each multiply by wgmma, one
// computing its softmax while the other holds the tensor cores ("ping-pong", FlashAttention-3, arXiv 2407.08608).
//
// An item has one head and up to 128 consecutive tokens. A step takes two pages = 128 keys: the two halves of the
// accumulator. Weights stay in registers as the A operand of P·V.
//
// Shared memory, 128-byte-swizzled, columns in two halves of 64 (one swizzle row each):
//   Q [2][128 rows][64]     K, V: per stage [2][128 keys][64]
// K is K-major for Q·Kᵀ: stride 1024 between groups of 8 keys. V is MN-major for P·V: leading 128·128 between the column
// halves, stride 1024 between groups of 8 keys.
#include <utility>

#include "ops/gpu/attn_tile.h"
#include "ops/gpu/launchers.h"
#include "ops/gpu/tensor_map.cuh"

namespace galvani::gpu {
namespace {

constexpr int kDim = 128;
constexpr int kThreads = 384;
constexpr int kConsumers = 256;
constexpr int kStages = 2;
constexpr int kKeys = 2 * kPageKeys;
constexpr int kHalf = 128 * 64 * 2;  // bytes of one column half of 128 rows

struct WgmmaShared {
  alignas(1024) unsigned char q[2 * kHalf];
  alignas(1024) unsigned char k[kStages][2 * kHalf];
  alignas(1024) unsigned char v[kStages][2 * kHalf];
  uint64_t q_full;
  uint64_t k_full[kStages], k_empty[kStages], v_full[kStages], v_empty[kStages];
};
constexpr int kConsumerWarps = kConsumers / 32;

struct Maps {
  dev::TensorMap q, k, v;
};

// Copies the pages of a step: both column halves of each.
DEV_FN void copy_pages(unsigned char* tile, const dev::TensorMap* map, const AttnParams& p, const AttnItem& item, int step,
                       uint64_t* full) {
  dev::mbar_expect(full, 2 * kHalf);
  DEV_UNROLL
  for (int h = 0; h < 2; ++h) {
    // An absent second page is copied like the first, and masked.
    const int i = 2 * step + h < item.run_count ? 2 * step + h : item.run_count - 1;
    const PageRun run = p.runs[item.run_begin + i];
    const int page = static_cast<int>(run.page) * p.kv_heads + item.kv_head;
    DEV_UNROLL
    for (int c = 0; c < 2; ++c)
      dev::tma_3d(tile + c * kHalf + h * kPageKeys * 128, map, c * 64, run.first, page, full);
  }
}

DEV_FN void produce(const WgmmaShared& shared, const AttnParams& p, const Maps& maps, const AttnItem& item, int steps) {
  WgmmaShared& s = const_cast<WgmmaShared&>(shared);
  dev::mbar_expect(&s.q_full, 2 * kHalf);
  for (int c = 0; c < 2; ++c) dev::tma_3d(s.q + c * kHalf, &maps.q, c * 64, item.head0, item.token0, &s.q_full);
  for (int step = 0; step < steps; ++step) {
    const int stage = step % kStages, parity = (step / kStages & 1) ^ 1;
    dev::mbar_wait(&s.k_empty[stage], parity);
    copy_pages(s.k[stage], &maps.k, p, item, step, &s.k_full[stage]);
    dev::mbar_wait(&s.v_empty[stage], parity);
    copy_pages(s.v[stage], &maps.v, p, item, step, &s.v_full[stage]);
  }
}

// s = Q·Kᵀ of this warpgroup's 64 rows.
DEV_FN void multiply_keys(float (&s)[64], const unsigned char* q, const unsigned char* k) {
  dev::wg_touch(s);
  dev::wg_fence();
  DEV_UNROLL
  for (int i = 0; i < kDim / 16; ++i) {
    const int at = (i >> 2) * kHalf + (i & 3) * 32;
    dev::wgmma_n128(s, dev::descriptor(q + at, 16, 1024), dev::descriptor(k + at, 16, 1024), i != 0);
  }
  dev::wg_commit();
}

// o += P·V.
DEV_FN void multiply_values(float (&o)[64], const uint32_t (&weights)[8][4], const unsigned char* v) {
  dev::wg_touch(o);
  dev::wg_fence();
  DEV_UNROLL
  for (int i = 0; i < kKeys / 16; ++i)
    dev::wgmma_n128_rt(o, weights[i], dev::descriptor(v + i * 16 * 128, kHalf, 1024), true);
  dev::wg_commit();
}

// Two neighbouring 8-column accumulators are one A operand (tile.h).
DEV_FN void pack_weights(uint32_t (&weights)[8][4], const float (&s)[64]) {
  DEV_UNROLL
  for (int i = 0; i < 8; ++i)
    DEV_UNROLL
    for (int j = 0; j < 4; ++j) weights[i][j] = dev::pack(s[8 * i + 2 * j], s[8 * i + 2 * j + 1]);
}

DEV_FN void scale_rows(float (&o)[64], const float (&alpha)[2]) {
  DEV_UNROLL
  for (int i = 0; i < 64; ++i) o[i] *= alpha[i >> 1 & 1];
}

template <bool kStat, bool kEdge>
DEV_KERNEL(kThreads, 1)
attn_wgmma_kernel(const DEV_PARAM Maps maps, const DEV_PARAM AttnParams p) {
  DEV_SHARED(raw);
  WgmmaShared& shared = *reinterpret_cast<WgmmaShared*>(raw);
  const TileTables<kWgmmaRows> tables(raw + sizeof(WgmmaShared), p.segments, kStat);
  const int thread = dev::tid(), group = thread >> 7;
  const AttnItem item = p.items[dev::bid()];
  const int steps = (item.run_count + 1) / 2;

  if (thread == 0) {
    dev::mbar_init(&shared.q_full, 1);
    for (int i = 0; i < kStages; ++i) {
      dev::mbar_init(&shared.k_full[i], 1);
      dev::mbar_init(&shared.v_full[i], 1);
      dev::mbar_init(&shared.k_empty[i], kConsumerWarps);
      dev::mbar_init(&shared.v_empty[i], kConsumerWarps);
    }
    dev::mbar_init_fence();
  }
  fill_tables<kWgmmaRows, kThreads, kStat, kEdge>(tables, p, item, thread);
  dev::sync();

  if (group == 0) {
    dev::regs_less<24>();
    if (thread == 0) produce(shared, p, maps, item, steps);
    return;
  }
  dev::regs_more<240>();
  const int consumer = group - 1, lane = thread & 31, warp = (thread >> 5) & 3;
  const int row = consumer * 64 + warp * 16 + fragment_row(lane, 0);
  const unsigned char* q = shared.q + consumer * 64 * 128;
  const auto release = [&](uint64_t* empty) {
    if (lane == 0) dev::mbar_arrive(empty);
  };
  // Named barriers 1 and 2: whose turn it is to issue to the tensor cores.
  const auto take_turn = [&] { dev::bar_sync(1 + consumer, kConsumers); };
  const auto pass_turn = [&](int step) {
    if (consumer == 0 || step + 1 < steps) dev::bar_arrive(2 - consumer, kConsumers);
  };

  RowSoftmax<kWgmmaRows, kStat, kEdge> softmax(tables, p, item, row, lane);
  PageRun page[2];
  const auto read_pages = [&](int step) {
    const PageRun* runs = p.runs + item.run_begin + 2 * step;
    const bool both = 2 * step + 1 < item.run_count;
    page[0] = runs[0];
    page[1] = runs[both ? 1 : 0];
    if (!both) page[1].count = 0;
  };
  float o[64], s[64], alpha[2];
  float (&tiles)[16][4] = reinterpret_cast<float (&)[16][4]>(s);
  uint32_t weights[8][4];
  DEV_UNROLL
  for (int i = 0; i < 64; ++i) o[i] = 0.0f;
  read_pages(0);
  dev::mbar_wait(&shared.q_full, 0);
  dev::mbar_wait(&shared.k_full[0], 0);
  if (consumer == 0) dev::bar_arrive(1, kConsumers);  // the first turn is the first warpgroup's
  take_turn();
  multiply_keys(s, q, shared.k[0]);
  pass_turn(0);
  dev::wg_wait<0>();
  dev::wg_touch(s);
  release(&shared.k_empty[0]);
  softmax.step(tiles, page, item, 0, alpha);
  pack_weights(weights, s);

  for (int step = 1; step < steps; ++step) {
    const int stage = step % kStages, before = (step - 1) % kStages;
    read_pages(step);
    dev::mbar_wait(&shared.k_full[stage], step / kStages & 1);
    take_turn();
    multiply_keys(s, q, shared.k[stage]);
    dev::mbar_wait(&shared.v_full[before], (step - 1) / kStages & 1);
    multiply_values(o, weights, shared.v[before]);
    pass_turn(step);
    dev::wg_wait<1>();
    dev::wg_touch(s);
    release(&shared.k_empty[stage]);
    softmax.step(tiles, page, item, 2 * step, alpha);
    dev::wg_wait<0>();
    dev::wg_touch(o);
    release(&shared.v_empty[before]);
    scale_rows(o, alpha);
    pack_weights(weights, s);
  }
  const int last = (steps - 1) % kStages;
  dev::mbar_wait(&shared.v_full[last], (steps - 1) / kStages & 1);
  multiply_values(o, weights, shared.v[last]);
  dev::wg_wait<0>();
  dev::wg_touch(o);

  softmax.total();
  write_rows<kDim>(p, item, tables, softmax, reinterpret_cast<float(&)[16][4]>(o), row, lane);
}

int launch(const AttnParams& p, void* stream) {
  Maps maps;
  const int64_t row = int64_t{kDim} * 2, page = row * kPageKeys;
  int status = make_tensor_map(&maps.q, p.q, {kDim, p.heads, p.tokens}, {row, p.q_stride * 2}, {64, 1, kWgmmaRows});
  for (const auto& [map, arena] : {std::pair{&maps.k, p.k}, std::pair{&maps.v, p.v}})
    if (status == 0)
      status = make_tensor_map(map, arena, {kDim, kPageKeys, p.pages * p.kv_heads}, {row, page}, {64, kPageKeys, 1});
  if (status != 0) return status;
  const bool stat = wants_statistics(p), edge = has_edges(p);
  const size_t shared =
      sizeof(WgmmaShared) + sizeof(float) * static_cast<size_t>(TileTables<kWgmmaRows>::size(p.segments, stat, edge));
  const dev::Grid grid{p.item_count, 1};
  if (stat && edge) return DEV_LAUNCH((attn_wgmma_kernel<true, true>), grid, kThreads, shared, stream, maps, p);
  if (stat) return DEV_LAUNCH((attn_wgmma_kernel<true, false>), grid, kThreads, shared, stream, maps, p);
  if (edge) return DEV_LAUNCH((attn_wgmma_kernel<false, true>), grid, kThreads, shared, stream, maps, p);
  return DEV_LAUNCH((attn_wgmma_kernel<false, false>), grid, kThreads, shared, stream, maps, p);
}

}  // namespace

int attn_wgmma_launch(const AttnParams& p, void* stream) {
  if (p.item_count == 0) return 0;
  return p.head_dim == kDim ? launch(p, stream) : kUnsupported;
}

}  // namespace galvani::gpu
