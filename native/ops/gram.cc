#include "ops/gram.h"

#include <algorithm>
#include <mutex>

#include "core/simd.h"
#include "ops/dense_kernels.h"

namespace galvani {
namespace {

constexpr int64_t kDepth = 256;  // entries of the long side packed at once
constexpr int64_t kTileColumns = kTileBlocks * kPack;
constexpr int64_t kMacro = 96;  // rows and columns of G one task updates: 2 × 96 × 256 doubles fit L2
constexpr int64_t kMacroBlocks = kMacro / kPack;

// Packs rows [block * 8, +8) of the small side × [from, from + depth) of the long side, zero-filled to 8.
void pack_block(const MatrixSource& a, int64_t block, int64_t from, int64_t depth, double* to) {
  const int64_t small = a.small_side(), begin = block * kPack, count = std::clamp<int64_t>(small - begin, 0, kPack);
  float values[kPack * kDepth];
  if (a.rows <= a.columns) {
    if (count) a.block(begin, count, from, depth, values);
    for (int64_t p = 0; p < depth; ++p)
      for (int64_t r = 0; r < kPack; ++r) to[p * kPack + r] = r < count ? values[r * depth + p] : 0.0;
  } else {
    if (count) a.block(from, depth, begin, count, values);
    for (int64_t p = 0; p < depth; ++p)
      for (int64_t r = 0; r < kPack; ++r) to[p * kPack + r] = r < count ? values[p * count + r] : 0.0;
  }
}

}  // namespace

const DenseKernels& dense_kernels() {
#if defined(__x86_64__)
  if (cpu_isa() == Isa::kAvx512) return kDenseAvx512;
  if (cpu_isa() == Isa::kAvx2) return kDenseAvx2;
#endif
  return kDensePortable;
}

std::vector<double> gram(const MatrixSource& a, ThreadPool& pool, const Poll& poll) {
  if (poll) poll();
  if (a.gram_there) return a.gram_there();
  const int64_t k = a.small_side(), length = a.long_side();
  const DenseKernels& kernels = dense_kernels();
  std::vector<double> g(static_cast<size_t>(k * k), 0.0);
  const int64_t macros = (k + kMacro - 1) / kMacro, blocks = macros * kMacroBlocks;
  std::vector<double> packed(static_cast<size_t>(blocks * kPack * kDepth));
  for (int64_t from = 0; from < length; from += kDepth) {
    if (poll) poll();
    const int64_t depth = std::min(kDepth, length - from), stride = depth * kPack;
    pool.run(blocks, [&](int64_t block) { pack_block(a, block, from, depth, packed.data() + block * stride); });
    pool.run(macros * macros, [&](int64_t task) {
      const int64_t mi = task / macros, mj = task % macros;
      if (mj < mi) return;  // upper triangle only
      double tile[kPack * kTileColumns];
      for (int64_t j = mj * kMacro; j < std::min(k, (mj + 1) * kMacro); j += kTileColumns) {
        for (int64_t i = mi * kMacro; i < std::min(k, (mi + 1) * kMacro); i += kPack) {
          if (j + kTileColumns <= i) continue;
          kernels.gram_tile(packed.data() + i / kPack * stride, packed.data() + j / kPack * stride, stride, depth,
                            tile);
          for (int64_t r = 0; r < std::min(kPack, k - i); ++r)
            for (int64_t c = std::max<int64_t>(0, i + r - j); c < std::min(kTileColumns, k - j); ++c)
              g[static_cast<size_t>((i + r) * k + j + c)] += tile[r * kTileColumns + c];
        }
      }
    });
  }
  return g;
}

}  // namespace galvani
