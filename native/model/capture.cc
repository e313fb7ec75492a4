#include "model/capture.h"

#include <algorithm>

namespace galvani {

CaptureSink::Layer& CaptureSink::at(int32_t layer) {
  if (edit_->site == Site::kLogits) return layers_[0];
  const auto it = std::lower_bound(edit_->layers.begin(), edit_->layers.end(), layer);
  return layers_[it - edit_->layers.begin()];
}

void CaptureSink::add_row(int32_t layer, const float* row, int64_t width, int64_t head_dim) {
  Layer& to = at(layer);
  if (head_dim == 0) {
    to.data.insert(to.data.end(), row, row + width);
    row_shape_ = {width};
  } else if (edit_->heads.empty()) {
    to.data.insert(to.data.end(), row, row + width);
    row_shape_ = {width / head_dim, head_dim};
  } else {
    for (int32_t head : edit_->heads) to.data.insert(to.data.end(), row + head * head_dim, row + (head + 1) * head_dim);
    row_shape_ = {static_cast<int64_t>(edit_->heads.size()), head_dim};
  }
  ++to.rows;
}

void CaptureSink::add_heads(int32_t layer, const float* row, int64_t heads, int64_t columns) {
  Layer& to = at(layer);
  if (edit_->heads.empty()) {
    to.data.insert(to.data.end(), row, row + heads * columns);
    row_shape_ = {heads, columns};
  } else {
    for (int32_t head : edit_->heads) to.data.insert(to.data.end(), row + head * columns, row + (head + 1) * columns);
    row_shape_ = {static_cast<int64_t>(edit_->heads.size()), columns};
  }
  if (edit_->measure == Measure::kPattern) to.columns.push_back(columns);
  // One number per head, or as many as the pattern has keys in the end.
  if (edit_->measure != Measure::kMass && edit_->measure != Measure::kTopKeys) row_shape_.pop_back();
  ++to.rows;
}

void CaptureSink::add_top_keys(int32_t layer, const int32_t* keys, const float* row, int64_t heads, int64_t k) {
  std::vector<int32_t>& to = at(layer).top;
  if (edit_->heads.empty()) to.insert(to.end(), keys, keys + heads * k);
  for (int32_t head : edit_->heads) to.insert(to.end(), keys + head * k, keys + (head + 1) * k);
  add_heads(layer, row, heads, k);
}

void CaptureSink::add_key_mass(int32_t layer, const float* mass, int64_t heads, int64_t keys, int64_t rows) {
  Layer& to = at(layer);
  const int64_t kept = edit_->heads.empty() ? heads : static_cast<int64_t>(edit_->heads.size());
  if (keys > to.keys) {  // generated keys came since
    std::vector<float> wider(kept * keys, 0.0f);
    for (int64_t h = 0; h < kept; ++h) std::copy_n(to.data.data() + h * to.keys, to.keys, wider.data() + h * keys);
    to.data = std::move(wider);
    to.keys = keys;
  }
  for (int64_t h = 0; h < kept; ++h) {
    const float* from = mass + (edit_->heads.empty() ? h : edit_->heads[h]) * keys;
    for (int64_t k = 0; k < keys; ++k) to.data[h * to.keys + k] += from[k];
  }
  to.rows += rows;
  row_shape_ = {kept};
}

// Rows of generated tokens see more keys than those before them: all get the columns of the longest, zeros at the end.
void CaptureSink::finish_pattern(CaptureOutput& output) const {
  int64_t keys = 0, heads = row_shape_.empty() ? 0 : row_shape_[0];
  for (const Layer& layer : layers_)
    for (int64_t columns : layer.columns) keys = std::max(keys, columns);
  output.shape.push_back(keys);
  for (const Layer& layer : layers_) {
    const float* from = layer.data.data();
    for (int64_t columns : layer.columns)
      for (int64_t h = 0; h < heads; ++h, from += columns) {
        output.data.insert(output.data.end(), from, from + columns);
        output.data.insert(output.data.end(), keys - columns, 0.0f);
      }
  }
}

CaptureOutput CaptureSink::finish() const {
  CaptureOutput output;
  const bool key_mass = edit_->measure == Measure::kKeyMass;
  int64_t rows = 0, keys = 0;
  for (const Layer& layer : layers_) {
    rows = std::max(rows, layer.rows);
    keys = std::max(keys, layer.keys);
  }
  if (edit_->site != Site::kLogits) output.shape.push_back(static_cast<int64_t>(layers_.size()));
  if (!key_mass) output.shape.push_back(rows);
  output.shape.insert(output.shape.end(), row_shape_.begin(), row_shape_.end());
  if (edit_->measure == Measure::kPattern) {
    finish_pattern(output);
    return output;
  }
  if (edit_->measure == Measure::kTopKeys) output.keys.emplace();
  if (key_mass) {
    if (row_shape_.empty()) output.shape.push_back(0);
    output.shape.push_back(keys);
  }
  for (const Layer& layer : layers_) {
    const size_t from = output.data.size();
    output.data.insert(output.data.end(), layer.data.begin(), layer.data.end());
    if (output.keys) output.keys->insert(output.keys->end(), layer.top.begin(), layer.top.end());
    if (key_mass && layer.rows > 0)
      for (size_t i = from; i < output.data.size(); ++i) output.data[i] /= static_cast<float>(layer.rows);
  }
  return output;
}

}  // namespace galvani
