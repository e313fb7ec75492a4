#include "ops/matmul.h"

#include <algorithm>
#include <string>

#include "core/simd.h"
#include "core/status.h"
#include "ops/matmul_kernel.h"
#include "ops/scratch.h"

namespace galvani {
namespace {

void check(const MatmulArgs& args) {
  const Weight& w = args.w;
  if (w.dtype != DType::kF32 && w.dtype != DType::kBF16 && w.dtype != DType::kF16)
    throw Error(Code::kUnsupported,
                std::string("matmul: weights of dtype ") + dtype_name(w.dtype) + "; expected F32, BF16 or F16");
  GALVANI_CHECK(args.m >= 0 && w.rows >= 0 && w.columns >= 0);
}

void run_block_here(const MatmulBlock& block) {
#if defined(__x86_64__)
  switch (cpu_isa()) {
    case Isa::kAvx512:
      return matmul_block_avx512(block);
    case Isa::kAvx2:
      return matmul_block_avx2(block);
    case Isa::kPortable:
      break;
  }
#endif
  matmul_block_portable(block);
}

constexpr int64_t kBlockRows = 96;      // a chunk of X of this height (384 KB) stays in L2 while W streams past
constexpr int64_t kColumnGranule = 32;  // tasks start at multiples of this many weight rows
constexpr double kWorthWaking = 15.0;   // µs of work below which other threads are not woken
constexpr double kMacsPerMicrosecond = 40e3, kBytesPerMicrosecond = 15e3;  // one core, rough

}  // namespace

void matmul_block_portable(const MatmulBlock& block) { matmul_block(block); }

void matmul(const MatmulArgs& args, ThreadPool& pool) {
  check(args);
  const int64_t n = args.w.rows, k = args.w.columns, m = args.m;
  if (m == 0 || n == 0) return;
  const int64_t row_bytes = k * dtype_size(args.w.dtype);
  const int64_t row_blocks = (m + kBlockRows - 1) / kBlockRows;
  const double work = std::max(static_cast<double>(m * n) * static_cast<double>(k) / kMacsPerMicrosecond,
                               static_cast<double>(n * row_bytes) / kBytesPerMicrosecond);
  // Cut N so that every thread has a few tasks to even out with, none smaller than is worth a hand-over.
  int64_t tasks = 1;
  if (pool.threads() > 1 && work > kWorthWaking)
    tasks =
        std::max<int64_t>(1, std::min<int64_t>(static_cast<int64_t>(work / (kWorthWaking / 2)), 8 * pool.threads()));
  const int64_t granules = (n + kColumnGranule - 1) / kColumnGranule;
  const int64_t column_blocks = std::min(granules, std::max<int64_t>(1, (tasks + row_blocks - 1) / row_blocks));
  const auto body = [&](int64_t task) {
    const int64_t rb = task / column_blocks, cb = task % column_blocks;
    const int64_t r0 = m * rb / row_blocks, r1 = m * (rb + 1) / row_blocks;
    const int64_t c0 = granules * cb / column_blocks * kColumnGranule;
    const int64_t c1 = std::min(n, granules * (cb + 1) / column_blocks * kColumnGranule);
    MatmulBlock block{};
    block.y = args.y + r0 * args.ldy + c0;
    block.ldy = args.ldy;
    block.x = args.x + r0 * args.ldx;
    block.ldx = args.ldx;
    block.w = static_cast<const unsigned char*>(args.w.data) + c0 * row_bytes;
    block.dtype = args.w.dtype;
    block.bias = args.bias ? args.bias + c0 : nullptr;
    block.rows = r1 - r0;
    block.columns = c1 - c0;
    block.k = k;
    block.scratch = thread_scratch(matmul_scratch(block.rows, k));
    run_block_here(block);
  };
  if (tasks == 1) {
    for (int64_t task = 0; task < row_blocks * column_blocks; ++task) body(task);
  } else {
    pool.run(row_blocks * column_blocks, body);
  }
}

void matmul_reference(const MatmulArgs& args) {
  check(args);
  const int64_t n = args.w.rows, k = args.w.columns;
  for (int64_t i = 0; i < args.m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      double sum = args.bias ? args.bias[j] : 0.0;
      for (int64_t c = 0; c < k; ++c)
        sum += static_cast<double>(args.x[i * args.ldx + c]) * load_float(args.w.data, args.w.dtype, j * k + c);
      args.y[i * args.ldy + j] = static_cast<float>(sum);
    }
}

}  // namespace galvani
