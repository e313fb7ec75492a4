// One warp's share of an attention tile by mma.sync: 16 query rows against pages of 64 keys in shared memory.
#pragma once
#include "ops/gpu/attn_tile.h"

namespace galvani::gpu {

template <int D>
struct WarpTile {
  using Layout = TileLayout<D>;
  uint32_t q[D / 16][4];  // A operands of Q·Kᵀ
  float s[8][4];          // scores, then weights, 16 × 64
  float o[D / 8][4];      // 16 × D

  // Takes this warp's 16 rows of a Q tile, from row0 on.
  DEV_FN void begin(const unsigned char* q_tile, int row0, int lane) {
    DEV_UNROLL
    for (int k = 0; k < D / 16; ++k) dev::ldsm4(q[k], q_tile + Layout::moved(a_offset<D>(lane), row0, 2 * k));
    DEV_UNROLL
    for (int n = 0; n < D / 8; ++n)
      DEV_UNROLL
      for (int i = 0; i < 4; ++i) o[n][i] = 0.0f;
  }

  // s = Q·Kᵀ.
  DEV_FN void scores(const unsigned char* k_tile, int lane) {
    DEV_UNROLL
    for (int n = 0; n < 8; ++n)
      DEV_UNROLL
      for (int i = 0; i < 4; ++i) s[n][i] = 0.0f;
    DEV_UNROLL
    for (int k = 0; k < D / 16; ++k)
      DEV_UNROLL
      for (int n = 0; n < 4; ++n) {
        uint32_t b[4];
        dev::ldsm4(b, k_tile + Layout::moved(b_offset<D>(lane), n * 16, 2 * k));
        dev::mma(s[2 * n], q[k], b[0], b[1]);
        dev::mma(s[2 * n + 1], q[k], b[2], b[3]);
      }
  }

  // o = alpha · o + s·V, the weights rounded to bfloat16.
  DEV_FN void values(const unsigned char* v_tile, const float (&alpha)[2], int lane) {
    DEV_UNROLL
    for (int n = 0; n < D / 8; ++n)
      DEV_UNROLL
      for (int i = 0; i < 4; ++i) o[n][i] *= alpha[i >> 1];
    DEV_UNROLL
    for (int k = 0; k < 4; ++k) {
      const uint32_t a[4] = {dev::pack(s[2 * k][0], s[2 * k][1]), dev::pack(s[2 * k][2], s[2 * k][3]),
                             dev::pack(s[2 * k + 1][0], s[2 * k + 1][1]), dev::pack(s[2 * k + 1][2], s[2 * k + 1][3])};
      DEV_UNROLL
      for (int n = 0; n < D / 16; ++n) {
        uint32_t b[4];
        dev::ldsm4t(b, v_tile + Layout::moved(bt_offset<D>(lane), k * 16, 2 * n));
        dev::mma(o[2 * n], a, b[0], b[1]);
        dev::mma(o[2 * n + 1], a, b[2], b[3]);
      }
    }
  }
};

// Starts copying the query rows of an item into a tile; rows beyond the item become zeros.
template <int D, int kRows, int kThreads>
DEV_FN void load_queries(unsigned char* tile, const AttnParams& p, const AttnItem& item, int thread) {
  constexpr int kChunks = TileLayout<D>::kChunks;
  for (int i = thread; i < kRows * kChunks; i += kThreads) {
    const int chunk = i % kChunks;
    const TileRow row(item, i / kChunks);
    const bf16* from = p.q + row.token * p.q_stride + static_cast<int64_t>(row.head) * D + chunk * 8;
    dev::cp16(tile + TileLayout<D>::offset(i / kChunks, chunk), from, row.valid);
  }
}

// Starts copying the keys (or values) of a run into a tile of 64 rows; slots it does not name become zeros (their
// addresses are not read).
template <int D, int kThreads>
DEV_FN void load_page(unsigned char* tile, const bf16* arena, const AttnParams& p, const PageRun& run, int kv_head,
                      int thread) {
  constexpr int kChunks = TileLayout<D>::kChunks;
  static_assert(kPageKeys * kChunks % kThreads == 0);
  const bf16* from = arena + (page_row(p, run.page, kv_head) + run.first) * D;
  DEV_UNROLL
  for (int j = 0; j < kPageKeys * kChunks / kThreads; ++j) {
    const int i = thread + j * kThreads;
    const int row = i / kChunks, chunk = i % kChunks;
    dev::cp16(tile + TileLayout<D>::offset(row, chunk), from + i * 8, row < run.count);
  }
}

}  // namespace galvani::gpu
