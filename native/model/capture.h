// Where read-outs accumulate while a run advances: per captured layer, rows in the order in which they are computed.
#pragma once
#include <vector>

#include "model/request.h"

namespace galvani {

class CaptureSink {
 public:
  explicit CaptureSink(const Edit* edit)
      : edit_(edit), layers_(edit->site == Site::kLogits ? 1 : edit->layers.size()) {}

  const Edit& edit() const { return *edit_; }

  // One row of an activation (width floats, heads of head_dim each or 0): keeps the wanted heads.
  void add_row(int32_t layer, const float* row, int64_t width, int64_t head_dim);
  // One row of an attention read-out: (H, columns); keeps the wanted heads. A pattern's rows may get longer.
  void add_heads(int32_t layer, const float* row, int64_t heads, int64_t columns);
  // One row's top keys, (H, k): logical rows of the keys, their probabilities.
  void add_top_keys(int32_t layer, const int32_t* keys, const float* row, int64_t heads, int64_t k);
  // Probability received per key, (H, keys), summed over `rows` more rows.
  void add_key_mass(int32_t layer, const float* mass, int64_t heads, int64_t keys, int64_t rows);

  CaptureOutput finish() const;

 private:
  struct Layer {
    std::vector<float> data;
    std::vector<int32_t> top;      // topKeys: beside data
    std::vector<int64_t> columns;  // pattern: of each row
    int64_t rows = 0;
    int64_t keys = 0;
  };
  Layer& at(int32_t layer);
  void finish_pattern(CaptureOutput& output) const;

  const Edit* edit_;
  std::vector<Layer> layers_;
  std::vector<int64_t> row_shape_;
};

}  // namespace galvani
