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

// Σ Δ² of every row and column of one step, the rest of DeltaSums. Accumulation float64 in an order that the shape alone
// decides. Entries with a version that is not finite count as unchanged, as in DeltaSums.
inline constexpr int kMassBand = 512;  // rows added up by one block

struct WeightMassParams {
  const void* versions[3];  // as in WeightDeltaParams: an entry counts only where all are finite
  WeightType types[3];
  int32_t count;
  int32_t step;             // 0: second − first, 1: third − second
  int64_t rows, columns;
  double* partial;          // (⌈rows / kMassBand⌉, columns)
  double* row_squares;      // (rows)
  double* column_squares;   // (columns)
};

// G = Δ Δᵀ (rows ≤ columns) or Δᵀ Δ, Δ = after − before as float32, products exact and sums float64: k × k over the
// long side, k = min(rows, columns). Only the upper triangle and the diagonal are written.
struct WeightGramParams {
  const void* before;  // null: of `after` itself
  const void* after;
  WeightType before_type, after_type;
  int64_t rows, columns;
  double* gram;        // (k, k)
};

// Merging in the span of the inputs: their inner products, and a weighted sum of them.
inline constexpr int kMixMost = 8;  // inputs

struct WeightDotsParams {
  const void* inputs[kMixMost];
  WeightType types[kMixMost];
  int32_t count;
  int64_t elements;
  double* partial;  // (⌈elements / kDeltaChunk⌉, count (count + 1) / 2)
  double* dots;     // (count (count + 1) / 2): ⟨i, j⟩ for i ≤ j, j fastest
};
struct WeightSumParams {
  const void* inputs[kMixMost];
  WeightType types[kMixMost];
  double factors[kMixMost];
  int32_t count;
  int64_t elements;
  void* out;            // Σ factor · input in float64, rounded to float32 and then to the stored type; not an input
  WeightType out_type;  // F32, F16 or BF16
};

// Eigenvalues of a symmetric float64 matrix by a library of the device's (cusolver.h).
struct EigenParams {
  double* matrix;        // (k, k) upper triangle and diagonal; overwritten: with vectors, row i is the vector of values[i]
  double* values;        // (k) ascending
  int32_t* info;         // (1) 0, or how many values did not converge
  int64_t k;
  int32_t vectors;       // 0 or 1
  void* workspace;       // device memory
  int64_t workspace_bytes;
  void* host_workspace;  // host memory, until the stream has come so far
  int64_t host_workspace_bytes;
};
// Which library. All empty: none is asked for.
struct EigenStatus {
  char name[64];      // "cuSOLVER 12.0.4"
  char path[512];
  char problem[768];  // one line, when it is asked for and unusable
};

}  // namespace galvani::gpu
