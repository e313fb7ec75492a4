#include "ops/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "core/status.h"
#include "ops/softmax_state.h"

namespace galvani {
namespace {

void check(const AttentionShape& shape) {
  if (shape.heads <= 0 || shape.kv_heads <= 0 || shape.head_dim <= 0 || shape.heads % shape.kv_heads != 0)
    throw Error(Code::kBadArgument, "attention: " + std::to_string(shape.heads) + " query heads, " +
                                        std::to_string(shape.kv_heads) + " KV heads, head dimension " +
                                        std::to_string(shape.head_dim));
}

// One row and head: the keys it may see, in list order, with their scores.
template <typename Real>
struct Row {
  struct Key {
    Real x;  // base 2
    const float* v;
    int32_t index;
    int32_t segment;
  };
  std::vector<Key> keys;
  Real m = kEmptyMax;

  void gather(const AttentionShape& shape, const AttentionItem& item, int64_t row, int64_t head) {
    const int64_t d = shape.head_dim, group = head / (shape.heads / shape.kv_heads);
    const float* q = item.q + row * item.q_stride + head * d;
    keys.clear();
    m = kEmptyMax;
    for (int32_t r = 0; r < item.run_count; ++r) {
      const KeyRun& run = item.runs[r];
      const ScoreEdit edit = item.edits ? item.edits->at(head, row, r) : ScoreEdit{};
      if (edit.blocked) continue;
      for (int32_t j = 0; j < run.count && run.index + j <= item.limit[row]; ++j) {
        const float* k = run.k[group] + j * run.stride;
        Real dot = 0;
        for (int64_t i = 0; i < d; ++i) dot += static_cast<Real>(q[i]) * k[i];
        const Real x = (dot * shape.scale * edit.gamma + edit.beta) * static_cast<Real>(1.4426950408889634074);
        keys.push_back({x, run.v[group] + j * run.stride, run.index + j, run.segment});
        m = std::max(m, x);
      }
    }
  }
};

// float64 twin of SoftmaxState, for rows whose maximum is already known.
template <typename Real>
void finish_row(const AttentionShape& shape, const AttentionItem& item, int64_t row, int64_t head, const Row<Real>& in,
                float* key_mass_row) {
  const int64_t d = shape.head_dim;
  const AttentionCapture* capture = item.capture;
  const bool captured = capture && (!capture->wanted || capture->wanted[row]);
  std::vector<Real> o(d, Real(0)), mass(captured && capture->mass ? capture->segments : 0, Real(0));
  Real l = 0, t = 0;
  for (const auto& key : in.keys) {
    const Real p = std::exp2(key.x - in.m);
    l += p;
    t += p * (key.x - in.m);
    for (int64_t i = 0; i < d; ++i) o[i] += p * key.v[i];
    if (!mass.empty()) mass[key.segment] += p;
  }
  float* out = item.out + row * item.out_stride + head * d;
  for (int64_t i = 0; i < d; ++i) out[i] = l > 0 ? static_cast<float>(o[i] / l) : 0.0f;
  if (!captured) return;
  const int64_t at = row * shape.heads + head;
  const Real ln2 = static_cast<Real>(0.69314718055994530942);
  if (capture->entropy) capture->entropy[at] = l > 0 ? static_cast<float>(ln2 * (std::log2(l) - t / l)) : 0.0f;
  if (capture->lse)
    capture->lse[at] = l > 0 ? static_cast<float>(ln2 * (in.m + std::log2(l))) : -std::numeric_limits<float>::infinity();
  for (size_t s = 0; s < mass.size(); ++s)
    capture->mass[at * capture->segments + static_cast<int64_t>(s)] = l > 0 ? static_cast<float>(mass[s] / l) : 0.0f;
  if (key_mass_row && l > 0)
    for (const auto& key : in.keys) key_mass_row[key.index] += static_cast<float>(std::exp2(key.x - in.m) / l);
}

template <typename Real>
void one_head(const AttentionShape& shape, const AttentionItem& item, int64_t head) {
  Row<Real> keys;
  float* key_mass = item.capture && item.capture->key_mass ? item.capture->key_mass + head * item.capture->key_span : nullptr;
  for (int64_t row = 0; row < item.rows; ++row) {
    keys.gather(shape, item, row, head);
    finish_row(shape, item, row, head, keys, key_mass);
  }
}

}  // namespace

void attention(const AttentionShape& shape, const AttentionItem* items, int64_t count, ThreadPool& pool) {
  check(shape);
  pool.run(count * shape.heads, [&](int64_t task) { one_head<float>(shape, items[task / shape.heads], task % shape.heads); });
}

void attention_reference(const AttentionShape& shape, const AttentionItem* items, int64_t count) {
  check(shape);
  for (int64_t i = 0; i < count; ++i)
    for (int64_t head = 0; head < shape.heads; ++head) one_head<double>(shape, items[i], head);
}

}  // namespace galvani
