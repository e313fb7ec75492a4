// One pass over two or three versions of a weight tensor: norms, update sizes, sparsity, agreement (METHODS §2).
//
//   w[0], w[1] (, w[2])   the same shape, any float dtype each     step s:  Δ_s = w[s+1] − w[s], float32
//
// Accumulation: float64 in 16 lanes per chunk of 65,536 elements, chunks added in order. A product of two float32 is
// exact in float64, so the result has the same bits whatever the thread count and instruction set. F64 tensors are
// rounded to float32 first. Entries that are not finite in any version are counted and left out of everything else.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

#include "core/parallel.h"
#include "core/tensor.h"

namespace galvani {

// Bin b counts entries with 2^(b−8) ≤ |Δ|/ulp < 2^(b−7); the first and last bin are open below and above. ulp is the
// spacing of bf16 at W before the step, 2^(⌊log2|W|⌋−7), at least 2^−133. Entries with Δ = 0 are in no bin.
constexpr int kUlpBins = 16;

struct StepSums {
  double square = 0;      // Σ Δ²
  double max_abs = 0;     // max |Δ|
  int64_t identical = 0;  // entries with equal bits (equal float32 value bits where the dtypes differ)
  int64_t zero = 0;       // entries with Δ = 0 (counts −0 → +0, which `identical` does not)
  std::array<int64_t, kUlpBins> ulps{};

  // Entries with |Δ| < ½ bf16 ulp of W, zeros included: invisible to a checkpoint stored in bf16.
  int64_t below_half_ulp() const;
};

struct DeltaSums {
  int64_t elements = 0;                 // finite entries, the n of every share
  int64_t non_finite = 0;               // left out
  double weight_square[3] = {0, 0, 0};  // Σ W² of each version
  StepSums steps[2];
  // Between the two steps, when there are three versions:
  double dot = 0;         // Σ Δ_0 Δ_1
  int64_t same_sign = 0;  // both non-zero, signs equal
  int64_t opposite_sign = 0;
};

// versions: 2 or 3 views. SHAPE_MISMATCH when element counts differ; UNSUPPORTED for integer dtypes.
DeltaSums delta_sums(const std::vector<const TensorView*>& versions, ThreadPool& pool);

// Σ Δ² per row and per column of Δ = after − before seen as rows × (elements / rows), rows = shape[0].
// Heads are blocks of rows (or columns). Same bits whatever the thread count.
struct Mass {
  std::vector<double> rows, columns;
};
Mass delta_mass(const TensorView& before, const TensorView& after, ThreadPool& pool);

// Elements [begin, begin + count) as float32.
void widen(const TensorView& view, int64_t begin, int64_t count, float* out);

// Equal dtype, shape and stored bytes.
bool identical(const TensorView& a, const TensorView& b);

}  // namespace galvani
