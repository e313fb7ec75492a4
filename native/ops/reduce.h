// One pass over two or three versions of a weight tensor: norms, moments, update sizes, sparsity, agreement, and where
// in the matrix the update lies (METHODS §2).
//
//   w[0], w[1] (, w[2])   the same shape, any float dtype each     step s:  Δ_s = w[s+1] − w[s], float32
//
// The tensor is seen as rows × columns = shape[0] × the rest (a vector is one row), cut into bands that depend on the
// shape alone. Accumulation: float64 in 8 lanes per band, bands added in order. Every summand is exact in float64
// (products of two float32), so fused multiply-add changes nothing and the result has the same bits whatever the
// thread count and instruction set. Δ³ and Δ⁴ are summed as fl(Δ²)·Δ and fl(Δ²)², fl = rounding to float32, for that
// reason: 2^−23 relative at most. F64 tensors are rounded to float32 first. Entries that are not finite in any version
// are counted and left out of everything else.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "core/parallel.h"
#include "core/tensor.h"
#include "ops/widen.h"

namespace galvani {

// Bin b counts entries with 2^(b−8) ≤ |Δ|/ulp < 2^(b−7); the first and last bin are open below and above. ulp is the
// spacing of bf16 at W before the step, 2^(⌊log2|W|⌋−7), at least 2^−133. Entries with Δ = 0 are in no bin.
constexpr int kUlpBins = 16;

struct StepSums {
  double sum = 0;         // Σ Δ
  double square = 0;      // Σ Δ²
  double cube = 0;        // Σ Δ³
  double fourth = 0;      // Σ Δ⁴
  double max_abs = 0;     // max |Δ|
  int64_t identical = 0;  // entries with equal bits (equal float32 value bits where the dtypes differ)
  int64_t zero = 0;       // entries with Δ = 0 (counts −0 → +0, which `identical` does not)
  std::array<int64_t, kUlpBins> ulps{};
  // Σ Δ² per row and per column. Heads are blocks of rows (or columns). Empty unless asked for.
  std::vector<double> rows, columns;

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

// What the caller does around elements [begin, end) of every version: before they are read (prefetching, cancellation by
// throwing) and after (progress). Called from several threads.
struct ReadHooks {
  std::function<void(int64_t begin, int64_t end)> before, after;
  // Elements [begin, begin + count) of one version, as stored, into `to`; what the view points to is not touched then.
  std::function<void(size_t version, int64_t begin, int64_t count, std::byte* to)> read;
};

// versions: 2 or 3 views. mass: fill rows and columns (tensors of two or more dimensions). SHAPE_MISMATCH when element
// counts differ; UNSUPPORTED for integer dtypes.
DeltaSums delta_sums(const std::vector<const TensorView*>& versions, ThreadPool& pool, bool mass = false,
                     const ReadHooks& hooks = {});

}  // namespace galvani
