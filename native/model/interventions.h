// Interventions as the engine reads them: rows, heads and values resolved to numbers. An Edit is data; binding it to a
// layer and applying it to a matrix of activations is all the engine does with it.
#pragma once
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/sites.h"

namespace galvani {

enum class EditOp : uint8_t { kZero, kMean, kResample, kPatch, kAdd, kScale, kKnockout, kCapture };
enum class Measure : uint8_t { kValue, kMass, kEntropy, kLse, kKeyMass, kTopKeys, kPattern };

inline constexpr int32_t kMaxTopKeys = 32;  // of one row and head; the same on a GPU (gpu::kMaxTop)

inline constexpr int32_t kOpenEnd = std::numeric_limits<int32_t>::max();

struct RowRange {
  int32_t begin = 0;
  int32_t end = kOpenEnd;  // kOpenEnd: generated rows included
  bool contains(int32_t row) const { return row >= begin && row < end; }
};
using RowRanges = std::vector<RowRange>;  // sorted, disjoint

bool contains(const RowRanges& ranges, int32_t row);
// Rows of the ranges below `limit`, in order.
std::vector<int32_t> expand(const RowRanges& ranges, int32_t limit);
// Smallest row of the ranges; kOpenEnd when there is none.
int32_t first_row(const RowRanges& ranges);
// Ranges within [first, first + count), counted from `first`: the rows of one image inside a prompt-wide numbering.
RowRanges clip(const RowRanges& ranges, int32_t first, int32_t count);
// Rows in the ranges; meaningful when none is open.
int64_t count_rows(const RowRanges& ranges);

struct Edit {
  Site site = Site::kResidPost;
  EditOp op = EditOp::kZero;
  Tower tower = Tower::kDecoder;
  std::vector<int32_t> layers;                       // sorted
  std::vector<int32_t> heads;                        // empty: all
  RowRanges rows;                                    // rows acted on; query rows at attn_logits, pattern
  std::vector<RowRanges> keys;                       // there: edits use their union, captures one column each
  std::shared_ptr<const std::vector<float>> vector;  // add, mean: (width) or (heads·D)
  float scalar = 0.0f;                               // add, scale
  int32_t source = -1;                               // trial index of the source run: patch, resample, mean
  RowRanges source_rows;
  uint64_t seed = 0;  // resample
  bool prefill = true;
  bool decode = true;
  Measure measure = Measure::kValue;
  int32_t top_k = 0;     // topKeys
  int32_t capture = -1;  // slot in the trial's captures

  bool at_layer(int32_t layer) const;
  bool captures() const { return op == EditOp::kCapture; }
  // Acts inside attention, on single (query, key) pairs.
  bool at_edges() const { return site == Site::kAttnLogits || site == Site::kPattern; }
  // A mean over the run's own rows: the rows of its span depend on each other.
  bool own_mean() const { return op == EditOp::kMean && !vector && source < 0; }
  // Everything but layers, source trial and phase, as bytes: equal contents mean equal computation.
  std::string content() const;
  // Row of the source run that row `target` receives (patch: same ordinal; resample: drawn with the seed).
  int32_t source_row_of(int32_t target) const;
};

// Rows of one matrix that belong to one run: matrix row begin + i holds logical row rows[i].
struct RowBlock {
  int64_t begin = 0;
  const int32_t* rows = nullptr;
  int32_t count = 0;
};

// Finds an activation row of a source run at the same site and layer; heads·D or C floats.
using SourceRow = std::function<const float*(int32_t row)>;

// Applies one edit (not a capture, not inside attention) to those rows of the blocks of one run that it names. x (rows,
// width), stride ldx; head_dim 0 for sites that have no heads. `source` is null unless edit.source ≥ 0; `own` finds
// rows of the run itself (mean without a value).
void apply_edit(const Edit& edit, float* x, int64_t ldx, int64_t width, int64_t head_dim,
                std::span<const RowBlock> blocks, const SourceRow& source, const SourceRow& own, int32_t prompt_rows);

}  // namespace galvani
