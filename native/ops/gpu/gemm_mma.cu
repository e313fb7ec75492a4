// out (m, n) = in (m, k) · weight (n, k)ᵀ + bias on mma.sync: the fallback where there is no cuBLASLt, and what the
// emulator runs. Both operands are K-major as they lie in memory. float32 accumulation in the order of k, so that a
// row's result depends on nothing else in the batch.
//
// Blocks of kRows × kColumns with k in steps of 32, four cp.async stages, eight warps. A stage holds 64-byte rows of four
// 16-byte chunks; chunk c of row r lies at place c ^ (r / 2 % 4), so that the eight rows an ldmatrix reads together fall
// into different banks:
//
//     row 0   c0 c1 c2 c3 │ row 1   c0 c1 c2 c3        128 bytes = all 32 banks
//     row 2   c1 c0 c3 c2 │ row 3   c1 c0 c3 c2
//     row 4   c2 c3 c0 c1 │ row 5   c2 c3 c0 c1
//     row 6   c3 c2 c1 c0 │ row 7   c3 c2 c1 c0
#include "ops/gpu/dev.h"
#include "ops/gpu/launchers.h"
#include "ops/gpu/refuse.h"
#include "ops/gpu/tile.h"

namespace galvani::gpu {
namespace {

constexpr int kThreads = 256, kStep = 32, kStages = 4;

DEV_FN int chunk_offset(int row, int chunk) { return row * 2 * kStep + ((chunk ^ (row >> 1 & 3)) << 4); }

// WarpRows × WarpColumns warps, each with MTiles × NPairs accumulators of 16 × 16.
template <int kWarpRows, int kWarpColumns, int kMTiles, int kNPairs>
struct Shape {
  static_assert(kWarpRows * kWarpColumns * 32 == kThreads);
  static constexpr int kRows = kWarpRows * kMTiles * 16, kColumns = kWarpColumns * kNPairs * 16;
  static constexpr int kInBytes = kRows * 2 * kStep, kStageBytes = kInBytes + kColumns * 2 * kStep;
  static constexpr size_t kShared = static_cast<size_t>(kStages) * kStageBytes;

  // Rows [row0, row0 + kCount) and k [k0, k0 + 32) of a (rows, k) matrix; zeros outside.
  template <int kCount>
  static DEV_FN void load(unsigned char* to, const bf16* from, int64_t stride, int row0, int rows, int k0, int k) {
    for (int i = dev::tid(); i < kCount * 4; i += kThreads) {
      const int row = i >> 2, chunk = i & 3;
      const bool ok = row0 + row < rows && k0 + 8 * chunk < k;
      const bf16* source = from + (ok ? (row0 + row) * stride + k0 + 8 * chunk : 0);
      dev::cp16(to + chunk_offset(row, chunk), source, ok);
    }
  }

  static DEV_FN void run(const GemmParams& p) {
    DEV_SHARED(shared);
    const int lane = dev::tid() & 31, warp = dev::tid() >> 5;
    // Blocks that follow each other share their weights, which are then read from memory once.
    const int row0 = dev::bid() * kRows, column0 = dev::bid_y() * kColumns;
    const int warp_row = warp / kWarpColumns * kMTiles * 16, warp_column = warp % kWarpColumns * kNPairs * 16;
    const int steps = (p.k + kStep - 1) / kStep;
    const auto fetch = [&](int step) {
      unsigned char* stage = shared + step % kStages * kStageBytes;
      if (step < steps) {
        load<kRows>(stage, p.in, p.in_stride, row0, p.m, step * kStep, p.k);
        load<kColumns>(stage + kInBytes, p.weight, p.k, column0, p.n, step * kStep, p.k);
      }
      dev::cp_commit();
    };

    float acc[kMTiles][2 * kNPairs][4];
    DEV_UNROLL
    for (int i = 0; i < kMTiles; ++i)
      DEV_UNROLL
      for (int j = 0; j < 2 * kNPairs; ++j)
        DEV_UNROLL
        for (int e = 0; e < 4; ++e) acc[i][j][e] = 0.0f;

    for (int step = 0; step < kStages - 1; ++step) fetch(step);
    for (int step = 0; step < steps; ++step) {
      dev::cp_wait<kStages - 2>();
      dev::sync();  // this step is there for everyone, and nobody reads the stage of the step before any more
      fetch(step + kStages - 1);
      const unsigned char* in = shared + step % kStages * kStageBytes;
      const unsigned char* weight = in + kInBytes;
      DEV_UNROLL
      for (int c = 0; c < 4; c += 2) {  // first chunk of a k16 step
        uint32_t a[kMTiles][4];
        DEV_UNROLL
        for (int i = 0; i < kMTiles; ++i)
          dev::ldsm4(a[i], in + chunk_offset(warp_row + 16 * i + (lane & 15), c + (lane >> 4)));
        DEV_UNROLL
        for (int j = 0; j < kNPairs; ++j) {
          uint32_t b[4];
          const int row = warp_column + 16 * j + (lane & 7) + ((lane >> 4) << 3);
          dev::ldsm4(b, weight + chunk_offset(row, c + ((lane >> 3) & 1)));
          DEV_UNROLL
          for (int i = 0; i < kMTiles; ++i) {
            dev::mma(acc[i][2 * j], a[i], b[0], b[1]);
            dev::mma(acc[i][2 * j + 1], a[i], b[2], b[3]);
          }
        }
      }
    }

    DEV_UNROLL
    for (int j = 0; j < 2 * kNPairs; ++j) {
      const int column = column0 + warp_column + 8 * j + fragment_column(lane, 0);
      if (column >= p.n) continue;  // n is even: column + 1 < n
      const float bias0 = p.bias ? p.bias[column] : 0.0f, bias1 = p.bias ? p.bias[column + 1] : 0.0f;
      DEV_UNROLL
      for (int i = 0; i < kMTiles; ++i)
        DEV_UNROLL
        for (int e = 0; e < 4; e += 2) {
          const int row = row0 + warp_row + 16 * i + fragment_row(lane, e);
          if (row >= p.m) continue;
          const int64_t at = row * p.out_stride + column;
          const float x = acc[i][j][e] + bias0, y = acc[i][j][e + 1] + bias1;
          if (p.out) {
            *reinterpret_cast<uint32_t*>(p.out + at) = dev::pack(x, y);
          } else {
            p.out_f32[at] = x;
            p.out_f32[at + 1] = y;
          }
        }
    }
  }

};

using Large = Shape<2, 4, 4, 2>;   // 128 × 128, warps of 64 × 32
using Narrow = Shape<1, 8, 1, 1>;  // 16 × 128: decoding, where the weights' bytes are all that counts

DEV_KERNEL(kThreads, 2) gemm_large_kernel(DEV_PARAM const GemmParams p) { Large::run(p); }
DEV_KERNEL(kThreads, 2) gemm_narrow_kernel(DEV_PARAM const GemmParams p) { Narrow::run(p); }

template <class S>
dev::Grid grid_of(const GemmParams& p) {
  return {(p.m + S::kRows - 1) / S::kRows, (p.n + S::kColumns - 1) / S::kColumns};
}

}  // namespace

int gemm_mma_launch(const GemmParams& p, void* stream) {
  if (p.n <= 0 || p.k <= 0 || p.n % 8 != 0 || p.k % 8 != 0)
    return refuse("n %d, k %d; expected multiples of 8", p.n, p.k);
  if ((p.out != nullptr) == (p.out_f32 != nullptr)) return refuse("expected one output");
  if (p.in_stride % 8 != 0 || p.out_stride % 8 != 0)
    return refuse("strides %lld, %lld; expected multiples of 8", static_cast<long long>(p.in_stride),
                  static_cast<long long>(p.out_stride));
  if (p.m <= 16) return DEV_LAUNCH(gemm_narrow_kernel, grid_of<Narrow>(p), kThreads, Narrow::kShared, stream, p);
  return DEV_LAUNCH(gemm_large_kernel, grid_of<Large>(p), kThreads, Large::kShared, stream, p);
}

}  // namespace galvani::gpu
