// What host and device share about comparing weights. Every pointer is device memory.
#pragma once
#include <cstdint>

namespace galvani::gpu {

// Stored types the kernels widen themselves; the others are refused by name (device/weight_stats.cc).
enum class WeightType : int32_t { kF32, kF16, kBF16, kF8E4M3, kF8E5M2 };

inline constexpr int kDeltaUlpBins = 16;

// What one block found and, added up, what the tensor has: DeltaSums (ops/reduce.h) without rows and columns. The
// meaning of every number is given there.
struct DeltaStepCounts {
  int64_t identical, zero, ulps[kDeltaUlpBins];
};
struct DeltaCounts {
  int64_t non_finite, same_sign, opposite_sign;
  DeltaStepCounts steps[2];
};
struct DeltaStepSums {
  double sum, square, cube, fourth;
};
struct DeltaTotals {
  double weight_square[3], dot;
  DeltaStepSums steps[2];
  double max_abs[2];
  DeltaCounts counts;
};
inline constexpr int kDeltaDoubles = 12;  // those that are sums; max_abs follows
inline constexpr int kDeltaIntegers = sizeof(DeltaCounts) / sizeof(int64_t);

// Elements of one block: of nothing else, so that the sums' order and bits are the same on every device.
inline constexpr int64_t kDeltaChunk = 32768;

// Two or three versions of a tensor, seen as one row. Accumulation float64: 32 lanes of a warp, then warps, then blocks
// in order. Every summand is exact in float64, as on the CPU, whose sums differ by their order only.
struct WeightDeltaParams {
  const void* versions[3];  // 16-byte aligned
  WeightType types[3];
  int32_t count;            // 2 or 3
  int64_t elements;
  DeltaTotals* partial;     // (⌈elements / kDeltaChunk⌉)
  DeltaTotals* totals;      // (1)
};

}  // namespace galvani::gpu
