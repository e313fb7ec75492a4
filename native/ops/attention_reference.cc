// The specification of attention and of every hook in it, by the definitions and in float64. attention.cc is compared
// with it; so are the GPU kernels.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "ops/attention.h"
#include "ops/softmax_constants.h"

namespace galvani {
namespace {

struct VisibleKey {
  double x;  // base-2 score, later its probability
  double post;
  const float* v;
  int32_t index, segment;
};

// What one row and head sees, in list order. Returns the largest base-2 score.
double see(const AttentionShape& shape, const AttentionItem& item, int64_t row, int64_t head,
           std::vector<VisibleKey>& keys) {
  const int64_t dims = shape.head_dim, group = head / (shape.heads / shape.kv_heads);
  const float* q = item.q + row * item.q_stride + head * dims;
  double m = kEmptyMax;
  for (int32_t r = 0; r < item.run_count; ++r) {
    const KeyRun& run = item.runs[r];
    const ScoreEdit edit = item.edits ? item.edits->at(head, row, r) : ScoreEdit{};
    if (edit.blocked) continue;
    for (int32_t j = 0; j < run.count; ++j) {
      const int32_t index = run.index + j;
      if (index > item.limit[row] || (item.low && index < item.low[row])) continue;
      const float* k = run.k[group] + j * run.stride;
      double dot = 0.0;
      for (int64_t d = 0; d < dims; ++d) dot += static_cast<double>(q[d]) * k[d];
      const double x = (dot * shape.scale * edit.gamma + edit.beta) / std::log(2.0);
      keys.push_back({x, edit.post, run.v[group] + j * run.stride, index, run.segment});
      m = std::max(m, x);
    }
  }
  return m;
}

// `keys` hold probabilities; at: (captured row, head).
void read_out(const AttentionCapture& capture, std::vector<VisibleKey>& keys, double lse, double entropy, int64_t head,
              int64_t at) {
  if (capture.entropy) capture.entropy[at] = static_cast<float>(entropy);
  if (capture.lse) capture.lse[at] = static_cast<float>(lse);
  if (capture.mass) {
    std::vector<double> mass(capture.segments, 0.0);
    for (const VisibleKey& key : keys) mass[key.segment] += key.x;
    for (int32_t g = 0; g < capture.segments; ++g)
      capture.mass[at * capture.segments + g] = static_cast<float>(mass[g]);
  }
  if (capture.key_mass)
    for (const VisibleKey& key : keys)
      capture.key_mass[head * capture.key_span + key.index] += static_cast<float>(key.x);
  if (capture.pattern) {
    float* pattern = capture.pattern + at * capture.key_span;
    std::fill_n(pattern, capture.key_span, 0.0f);
    for (const VisibleKey& key : keys) pattern[key.index] += static_cast<float>(key.x);
  }
  if (capture.top_index) {
    std::stable_sort(keys.begin(), keys.end(), [](const VisibleKey& a, const VisibleKey& b) { return a.x > b.x; });
    for (int32_t i = 0; i < capture.top_k; ++i) {
      const bool there = i < static_cast<int32_t>(keys.size());
      capture.top_index[at * capture.top_k + i] = there ? keys[i].index : -1;
      capture.top_weight[at * capture.top_k + i] = there ? static_cast<float>(keys[i].x) : 0.0f;
    }
  }
}

void reference_row(const AttentionShape& shape, const AttentionItem& item, int64_t row, int64_t head) {
  std::vector<VisibleKey> keys;
  const double m = see(shape, item, row, head, keys);
  double l = 0.0, t = 0.0;
  for (VisibleKey& key : keys) {
    const double p = std::exp2(key.x - m);
    l += p;
    t += p * (key.x - m);
    key.x = p;
  }
  for (VisibleKey& key : keys) key.x /= l;

  const int64_t dims = shape.head_dim;
  std::vector<double> o(dims, 0.0);
  for (const VisibleKey& key : keys)
    for (int64_t d = 0; d < dims; ++d) o[d] += key.post * key.x * key.v[d];
  float* out = item.out + row * item.out_stride + head * dims;
  const HeadEdits heads = item.head_edits ? *item.head_edits : HeadEdits{};
  for (int64_t d = 0; d < dims; ++d)
    out[d] = static_cast<float>((heads.scale ? heads.scale[head] : 1.0) * o[d] +
                                (heads.add ? heads.add[head * dims + d] : 0.0));

  const double lse = keys.empty() ? -std::numeric_limits<double>::infinity() : std::log(2.0) * (m + std::log2(l));
  const double entropy = keys.empty() ? 0.0 : std::log(2.0) * (std::log2(l) - t / l);
  for (int32_t c = 0; item.capture && c < item.captures; ++c) {
    const AttentionCapture& capture = item.capture[c];
    const int64_t to = capture.row ? capture.row[row] : row;
    if (to >= 0) read_out(capture, keys, lse, entropy, head, to * shape.heads + head);
  }
}

}  // namespace

void attention_reference(const AttentionShape& shape, const AttentionItem* items, int64_t count) {
  check(shape);
  for (int64_t i = 0; i < count; ++i)
    for (int64_t row = 0; row < items[i].rows; ++row)
      for (int64_t head = 0; head < shape.heads; ++head) reference_row(shape, items[i], row, head);
}

}  // namespace galvani
