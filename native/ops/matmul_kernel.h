// The matmul micro-kernel, written once for three vector widths (vec.h) and three weight types. No weight is ever
// packed or copied: rows of W are read where they are mapped, widened in registers, and multiplied into a tile of
//   kTileRows rows of X  ×  kTileColumns rows of W
// accumulators whose lanes run along K. X, the small operand, is packed once per block into the order of the loop.
#pragma once
#include "ops/matmul_block.h"
#include "ops/vec.h"

namespace galvani {
namespace {

constexpr int kStep = 2 * kWidth;  // columns of K per iteration
constexpr int kTileRows = 6;
constexpr int kTileColumns = kRegisters == 32 ? 4 : 2;
constexpr int kMaxColumns = 8;

// How kStep stored weights become two vectors. kSplit: even columns, then odd ones; X is packed to match.
struct ReadF32 {
  static constexpr bool kSplit = false;
  static constexpr int64_t kBytes = 4;
  static GALVANI_INLINE Vec first(const unsigned char* p) { return load(p); }
  static GALVANI_INLINE Vec second(const unsigned char* p) { return load(p + 4 * kWidth); }
};
struct ReadBF16 {
  static constexpr bool kSplit = true;
  static constexpr int64_t kBytes = 2;
  static GALVANI_INLINE Vec first(const unsigned char* p) { return load_bf16_even(p); }
  static GALVANI_INLINE Vec second(const unsigned char* p) { return load_bf16_odd(p); }
};
struct ReadF16 {
  static constexpr bool kSplit = false;
  static constexpr int64_t kBytes = 2;
  static GALVANI_INLINE Vec first(const unsigned char* p) { return load_f16(p); }
  static GALVANI_INLINE Vec second(const unsigned char* p) { return load_f16(p + 2 * kWidth); }
};

// acc[i][j] += x row i · w row j over one step.
template <typename Read, int kRows, int kColumns>
GALVANI_INLINE void multiply_step(Vec (&acc)[kRows][kColumns], const float* x,
                                  const unsigned char* const (&w)[kColumns], int64_t offset) {
  Vec wide[kColumns];
#pragma GCC unroll 8
  for (int j = 0; j < kColumns; ++j) wide[j] = Read::first(w[j] + offset);
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    const Vec a = load(x + i * kWidth);
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; ++j) acc[i][j] = fma(a, wide[j], acc[i][j]);
  }
#pragma GCC unroll 8
  for (int j = 0; j < kColumns; ++j) wide[j] = Read::second(w[j] + offset);
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    const Vec a = load(x + (kRows + i) * kWidth);
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; ++j) acc[i][j] = fma(a, wide[j], acc[i][j]);
  }
}

// One chunk of K for one tile: out[i][j] (kRows × kMaxColumns) = x row i · w row j. x is packed, k counts columns.
// `ahead` is a weight row wanted soon; its lines are fetched along the way.
template <typename Read, int kRows, int kColumns>
void tile(const float* x, const unsigned char* w, int64_t row_bytes, int64_t k, const unsigned char* ahead,
          float* out) {
  Vec acc[kRows][kColumns];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; ++j) acc[i][j] = zero();
  const unsigned char* row[kColumns];
#pragma GCC unroll 8
  for (int j = 0; j < kColumns; ++j) row[j] = w + j * row_bytes;

  const int64_t whole = k / kStep;
  for (int64_t s = 0; s < whole; ++s) {
    const int64_t offset = s * kStep * Read::kBytes;
    for (int64_t line = 0; line < kStep * Read::kBytes; line += 64) prefetch(ahead + offset + line);
    multiply_step<Read, kRows, kColumns>(acc, x, row, offset);
    x += 2 * kRows * kWidth;
  }
  if (const int64_t left = k - whole * kStep) {  // X is padded with zeros, W is not: copy its last columns beside zeros
    unsigned char tail[kColumns][kStep * Read::kBytes] = {};
    const unsigned char* tail_row[kColumns];
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; ++j) {
      std::memcpy(tail[j], row[j] + whole * kStep * Read::kBytes, left * Read::kBytes);
      tail_row[j] = tail[j];
    }
    multiply_step<Read, kRows, kColumns>(acc, x, tail_row, 0);
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; j += 4)
      sum4(acc[i][j], j + 1 < kColumns ? acc[i][(j + 1) % kColumns] : zero(),
           j + 2 < kColumns ? acc[i][(j + 2) % kColumns] : zero(),
           j + 3 < kColumns ? acc[i][(j + 3) % kColumns] : zero(), out + i * kMaxColumns + j);
}

using TileFunction = void (*)(const float*, const unsigned char*, int64_t, int64_t, const unsigned char*, float*);

// Few rows of X: more weight rows in flight, since reading W is then all the work.
constexpr int columns_for(int64_t rows) {
  if (rows == 1) return 8;
  if (rows <= 3) return kRegisters == 32 ? 8 : 4;
  return kTileColumns;
}

template <typename Read>
TileFunction pick_tile(int rows, int columns) {
  static constexpr TileFunction kSingle[] = {tile<Read, 1, 1>, tile<Read, 2, 1>, tile<Read, 3, 1>,
                                             tile<Read, 4, 1>, tile<Read, 5, 1>, tile<Read, 6, 1>};
  static constexpr TileFunction kFull[] = {tile<Read, 1, kTileColumns>, tile<Read, 2, kTileColumns>,
                                           tile<Read, 3, kTileColumns>, tile<Read, 4, kTileColumns>,
                                           tile<Read, 5, kTileColumns>, tile<Read, 6, kTileColumns>};
  static constexpr TileFunction kWide[] = {tile<Read, 1, columns_for(1)>, tile<Read, 2, columns_for(2)>,
                                           tile<Read, 3, columns_for(3)>};
  if (columns == 1) return kSingle[rows - 1];
  return columns == kTileColumns ? kFull[rows - 1] : kWide[rows - 1];
}

// Packs `count` columns of `rows` rows: per step, the first vectors of all rows, then the second ones.
template <bool kSplit>
void pack(const float* x, int64_t ldx, int rows, int64_t count, float* out) {
  for (int64_t c = 0; c < count; c += kStep, out += 2 * rows * kWidth)
    for (int i = 0; i < rows; ++i) {
      const float* in = x + i * ldx + c;
      float padded[kStep];
      if (count - c < kStep) {
        for (int j = 0; j < kStep; ++j) padded[j] = c + j < count ? in[j] : 0.0f;
        in = padded;
      }
      Vec a = load(in), b = load(in + kWidth);
      if (kSplit) split(a, b, a, b);
      store(out + i * kWidth, a);
      store(out + (rows + i) * kWidth, b);
    }
}

template <typename Read>
void run_block(const MatmulBlock& block) {
  const int64_t row_bytes = block.k * Read::kBytes;
  const int64_t tiles = (block.rows + kTileRows - 1) / kTileRows;
  const int64_t chunks = block.k == 0 ? 1 : (block.k + kMatmulChunk - 1) / kMatmulChunk;
  const bool all = matmul_packs_all(block.rows, block.k);
  const int wide = columns_for(block.rows);
  const auto first_row = [&](int64_t t) { return block.rows * t / tiles; };  // tiles of nearly equal height
  const auto chunk_size = [&](int64_t c) { return c + 1 < chunks ? kMatmulChunk : block.k - c * kMatmulChunk; };
  const auto padded_size = [&](int64_t c) { return (chunk_size(c) + kStep - 1) / kStep * kStep; };
  const auto packed = [&](int64_t c) { return block.scratch + (all ? c * block.rows * kMatmulChunk : 0); };
  const auto pack_chunk = [&](int64_t c) {
    for (int64_t t = 0; t < tiles; ++t)
      pack<Read::kSplit>(block.x + first_row(t) * block.ldx + c * kMatmulChunk, block.ldx,
                         static_cast<int>(first_row(t + 1) - first_row(t)), chunk_size(c),
                         packed(c) + first_row(t) * padded_size(c));
  };
  const auto panel = [&](int64_t c, int64_t n) {  // one chunk, `wide` weight rows (or single ones at the end), all rows
    const int columns = block.columns - n >= wide ? wide : 1;
    const unsigned char* w = block.w + n * row_bytes + c * kMatmulChunk * Read::kBytes;
    const unsigned char* next = n + 2 * wide <= block.columns ? w + wide * row_bytes : w;
    float out[kTileRows * kMaxColumns];
    for (int64_t t = 0; t < tiles; ++t) {
      const int rows = static_cast<int>(first_row(t + 1) - first_row(t));
      pick_tile<Read>(rows, columns)(packed(c) + first_row(t) * padded_size(c), w, row_bytes, chunk_size(c),
                                     t < columns ? next + t * row_bytes : w, out);
      for (int i = 0; i < rows; ++i) {
        float* y = block.y + (first_row(t) + i) * block.ldy + n;
        for (int j = 0; j < columns; ++j) {
          float sum = c == 0 ? out[i * kMaxColumns + j] : y[j] + out[i * kMaxColumns + j];
          if (c + 1 == chunks && block.bias) sum += block.bias[n + j];
          y[j] = sum;
        }
      }
    }
    return columns;
  };
  if (all) {
    for (int64_t c = 0; c < chunks; ++c) pack_chunk(c);
    for (int64_t n = 0; n < block.columns;) {
      int columns = 1;
      for (int64_t c = 0; c < chunks; ++c) columns = panel(c, n);
      n += columns;
    }
  } else {
    for (int64_t c = 0; c < chunks; ++c) {
      pack_chunk(c);
      for (int64_t n = 0; n < block.columns;) n += panel(c, n);
    }
  }
}

GALVANI_INLINE void matmul_block(const MatmulBlock& block) {
  switch (block.dtype) {
    case DType::kBF16:
      return run_block<ReadBF16>(block);
    case DType::kF16:
      return run_block<ReadF16>(block);
    default:
      return run_block<ReadF32>(block);
  }
}

}  // namespace
}  // namespace galvani
