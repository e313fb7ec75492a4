// What matmul.cc hands to one instruction set: a block of rows of X against a range of rows of W.
#pragma once
#include <cstdint>

#include "core/dtype.h"

namespace galvani {

// K is cut every kMatmulChunk columns, for every shape alike. One output is
//   ((chunk_0 + chunk_1) + chunk_2 …) + bias,   chunk = 2·width interleaved lane sums, then a fixed tree over the
//   lanes,
// so its bits depend on K (and on the instruction set) alone. A chunk of X and of W rows of a tile fit in L1.
inline constexpr int64_t kMatmulChunk = 1024;

struct MatmulBlock {
  float* y;  // (rows, columns) at y, stride ldy
  int64_t ldy;
  const float* x;  // (rows, k), stride ldx
  int64_t ldx;
  const unsigned char* w;  // first of `columns` weight rows of k elements; any alignment
  DType dtype;
  const float* bias;  // (columns) or null
  int64_t rows;
  int64_t columns;
  int64_t k;
  float* scratch;  // matmul_scratch(rows, k) floats
};

// All of X packed if it is small (then W streams once, row after row), else one chunk at a time.
static inline bool matmul_packs_all(int64_t rows, int64_t k) { return rows * k <= (int64_t{1} << 17); }
static inline int64_t matmul_scratch(int64_t rows, int64_t k) {
  const int64_t padded = (k + 31) / 32 * 32;
  return rows * (matmul_packs_all(rows, k) || padded < kMatmulChunk ? padded : kMatmulChunk);
}

void matmul_block_portable(const MatmulBlock& block);
void matmul_block_avx2(const MatmulBlock& block);
void matmul_block_avx512(const MatmulBlock& block);

}  // namespace galvani
