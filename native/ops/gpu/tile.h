// Where the elements of a tile are: every fragment map of mma.sync and wgmma, the shared-memory layout, and the few
// loads built on them. Each map is one function; tile_test.cc prints and checks the pictures.
//
// Accumulator of m16n8k16 (C), one warp; lane = 4·g + q holds four elements:
//
//            column   2q      2q+1
//     row g         [ c0      c1 ]
//     row g+8       [ c2      c3 ]
//
// A operand (16×16): a0 rows g, columns 2q 2q+1; a1 rows g+8; a2 rows g, columns 2q+8 2q+9; a3 rows g+8, the same.
// B operand (16×8):  b0 rows 2q 2q+1, column g; b1 rows 2q+8 2q+9.
// So two neighbouring 16×8 accumulators are, packed, one 16×16 A operand: P = softmax(S) feeds P·V without shuffles.
#pragma once
#include "ops/gpu/dev.h"

namespace galvani::gpu {

// Row of accumulator element i ∈ [0, 4) inside its 16-row tile, column inside its 8-column tile.
DEV_FN constexpr int fragment_row(int lane, int i) { return (lane >> 2) + ((i >> 1) << 3); }
DEV_FN constexpr int fragment_column(int lane, int i) { return ((lane & 3) << 1) + (i & 1); }
// The first and second row a lane of an accumulator holds are fragment_row(lane, 0) and 8 more: r = i >> 1.

// A tile of rows of D bfloat16 in shared memory. Eight consecutive rows of one 16-byte chunk must fall into different
// banks for ldmatrix: rows of 128 or 256 bytes XOR the chunk with the row, the others (D = 80, 96) are padded by a chunk
// to an odd number of chunks.
template <int D>
struct TileLayout {
  static constexpr int kChunks = D / 8;
  static constexpr bool kSwizzled = D % 64 == 0;
  static constexpr int kRowBytes = kSwizzled ? 2 * D : 2 * D + 16;
  static_assert(D % 16 == 0 && (kSwizzled || kRowBytes / 16 % 2 == 1));
  // Byte offset of chunk c of a row.
  static DEV_FN int offset(int row, int c) { return row * kRowBytes + ((kSwizzled ? c ^ (row & 7) : c) << 4); }
  // The same place in the block that starts `rows` (a multiple of 8) further down and `chunks` (even; the offset's own
  // chunk is 0 or 1) further right. A kernel computes a lane's offset once and moves it by constants.
  static DEV_FN int moved(int offset, int rows, int chunks) {
    return (kSwizzled ? offset ^ (chunks << 4) : offset + (chunks << 4)) + rows * kRowBytes;
  }
};

// Offsets of the rows a lane names to ldmatrix x4 for the 16×16 block at the tile's start; `moved` gives the others.
// A operand of rows × k: matrices (rows 0–7, k 0–7), (rows 8–15, k 0–7), (rows 0–7, k 8–15), (rows 8–15, k 8–15).
template <int D>
DEV_FN int a_offset(int lane) {
  return TileLayout<D>::offset(lane & 15, lane >> 4);
}
// B operands of two neighbouring n8 tiles from a K-major tile (rows are n, as keys in Q·Kᵀ): registers {b0, b1} of the
// first tile, then of the second.
template <int D>
DEV_FN int b_offset(int lane) {
  return TileLayout<D>::offset((lane & 7) + ((lane >> 4) << 3), (lane >> 3) & 1);
}
// B operands of two neighbouring n8 tiles from an N-major tile (rows are k, as keys in P·V), through the transposed
// ldmatrix: {b0, b1} of the columns of chunk 0, then of chunk 1.
template <int D>
DEV_FN int bt_offset(int lane) {
  return TileLayout<D>::offset(lane & 15, lane >> 4);
}

// Sum and maximum over the four lanes that share an accumulator row.
DEV_FN float quad_sum(float v) {
  v += dev::shfl_xor(v, 1);
  return v + dev::shfl_xor(v, 2);
}
DEV_FN float quad_max(float v) {
  v = dev::max(v, dev::shfl_xor(v, 1));
  return dev::max(v, dev::shfl_xor(v, 2));
}

// First row of a page of one KV head in the arena.
DEV_FN int64_t page_row(const AttnParams& p, uint32_t page, int kv_head) {
  return (static_cast<int64_t>(page) * p.kv_heads + kv_head) * kPageKeys;
}

}  // namespace galvani::gpu
