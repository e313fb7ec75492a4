// One attention row by the definition, float64, from the bits the device was given; and how far a float32 kernel with
// bfloat16 probabilities may be from it.
#pragma once
#include <vector>

#include "device/check/scene.h"

namespace galvani::gpu::check {

struct RowKey {
  double x;                     // base-2 score
  double p;                     // probability, before `post`
  int32_t index, segment, run;  // logical index; run: position in the given list
};

// A row over a list of runs: the whole of it, or one part.
struct RowReference {
  bool empty = true;
  double log2_sum = 0.0;            // m + log2 l: base-2 log of the sum
  double lse = 0.0, entropy = 0.0;  // natural; −∞ and 0 for an empty row
  double t_over_l = 0.0;            // Σ p·(x − max x)
  double max = 0.0;
  std::vector<double> out, out_size;  // (D); out_size: Σ p·post·|v|, what its errors are relative to. No head edits.
  std::vector<double> mass;           // (segments)
  std::vector<double> run_max;        // (runs); −∞ where nothing is visible
  std::vector<RowKey> keys;           // visible ones in list order

  // How far a base-2 score of this row may be off: float32 sums of products of the row's size, 2^-20 of the largest
  // Σ|q·k| of a visible key (nvidia's mma drops bits below about 2^-23 of the largest product; measured nothing yet).
  double slack = 0.0;
};

RowReference reference_row(const Scene& scene, int32_t token, int32_t head, const PageRun* runs, int32_t count);

// The final output: head_scale · out + head_add. `size`: what its errors are relative to.
struct FinalValue {
  double value, size;
};
FinalValue final_value(const Scene& scene, const RowReference& row, int32_t token, int32_t head, int32_t d);

}  // namespace galvani::gpu::check
