// What the attention tests share: a scene of queries, keys and hooks, its run by either implementation, and the
// distance that rounding allows between the two.
#pragma once
#include <algorithm>
#include <cstring>
#include <limits>

#include "core/testing.h"
#include "ops/attention.h"

namespace galvani::testing {

inline constexpr double kUnit = 0x1.0p-24;  // float32 rounding
inline constexpr float kUntouched = 777.0f;

// Queries, keys and everything that hooks can do to them, owned in one place.
struct Scene {
  AttentionShape shape;
  int32_t rows, keys, segments = 0;
  std::vector<float> q, k, v;  // (rows, H, D), (G, keys, D) twice
  std::vector<int32_t> limit, low;
  struct Cut {
    int32_t first, count, segment;
  };
  std::vector<Cut> cuts;
  std::vector<uint8_t> head_class, row_class;
  std::vector<ScoreEdit> table;             // [2][2][cuts], empty: no edits
  std::vector<float> head_scale, head_add;  // (H), (H, D), empty: none
  std::vector<int32_t> capture_row;         // empty: all
  int32_t top_k = 3;

  Scene(Random& random, AttentionShape s, int32_t rows_, int32_t keys_, bool causal, float spread = 1.0f)
      : shape(s), rows(rows_), keys(keys_), segments(1), cuts{{0, keys_, 0}} {
    q = random.normals(int64_t{rows} * s.heads * s.head_dim, spread);
    k = random.normals(int64_t{s.kv_heads} * keys * s.head_dim, spread);
    v = random.normals(int64_t{s.kv_heads} * keys * s.head_dim);
    for (int32_t r = 0; r < rows; ++r) limit.push_back(causal ? keys - rows + r : std::numeric_limits<int32_t>::max());
  }

  void cut_at_random(Random& random, int32_t longest, int32_t segment_count) {
    cuts.clear();
    segments = segment_count;
    for (int32_t at = 0; at < keys;) {
      const int32_t count = std::min<int32_t>(keys - at, 1 + static_cast<int32_t>(random.below(longest)));
      cuts.push_back({at, count, static_cast<int32_t>(random.below(segment_count))});
      at += count;
    }
  }

  // Two classes of heads and of rows, chosen by coin; class (0, 0) unedited.
  void classes_at_random(Random& random) {
    head_class.clear();
    row_class.clear();
    for (int32_t h = 0; h < shape.heads; ++h) head_class.push_back(static_cast<uint8_t>(random.below(2)));
    for (int32_t r = 0; r < rows; ++r) row_class.push_back(static_cast<uint8_t>(random.below(2)));
    table.assign(4 * cuts.size(), {});
  }

  void edit_at_random(Random& random) {
    classes_at_random(random);
    for (size_t i = cuts.size(); i < table.size(); ++i) {
      table[i].gamma = static_cast<float>(random.uniform() * 2.0);
      table[i].beta = random.normal();
      table[i].blocked = random.below(3) == 0;
      table[i].post = random.below(2) ? 1.0f : static_cast<float>(random.below(3)) * 0.7f;
    }
  }

  // Rows see some of the keys before their limit.
  void windows_at_random(Random& random, int32_t longest) {
    low.clear();
    for (int32_t r = 0; r < rows; ++r)
      low.push_back(std::min(limit[r], keys - 1) - static_cast<int32_t>(random.below(longest)));
  }

  void head_edits_at_random(Random& random) {
    head_scale.clear();
    for (int32_t h = 0; h < shape.heads; ++h) head_scale.push_back(static_cast<float>(random.below(4)) * 0.5f);
    head_add = random.normals(int64_t{shape.heads} * shape.head_dim);
  }

  int32_t captured_rows() const {
    int32_t count = capture_row.empty() ? rows : 0;
    for (int32_t row : capture_row) count = std::max(count, row + 1);
    return count;
  }
};

struct Result {
  std::vector<float> out, mass, entropy, lse, key_mass, pattern, top_weight;
  std::vector<int32_t> top_index;
};

enum class How { kFast, kReference };

// Everything an item points to, alive as long as this is.
class SceneItem {
 public:
  SceneItem(const Scene& scene, bool capture, int32_t first, int32_t last) {
    const int64_t heads = scene.shape.heads, dims = scene.shape.head_dim, row_floats = heads * dims;
    const int32_t rows = last - first;
    result.out.assign(rows * row_floats, kUntouched);
    if (capture) {
      const int64_t kept = scene.capture_row.empty() ? rows : scene.captured_rows();
      result.mass.assign(kept * heads * scene.segments, kUntouched);
      result.entropy.assign(kept * heads, kUntouched);
      result.lse.assign(kept * heads, kUntouched);
      result.key_mass.assign(heads * scene.keys, 0.0f);
      result.pattern.assign(kept * heads * scene.keys, kUntouched);
      result.top_weight.assign(kept * heads * scene.top_k, kUntouched);
      result.top_index.assign(kept * heads * scene.top_k, -777);
      capture_.segments = scene.segments;
      capture_.row = scene.capture_row.empty() ? nullptr : scene.capture_row.data() + first;
      capture_.mass = result.mass.data();
      capture_.entropy = result.entropy.data();
      capture_.lse = result.lse.data();
      capture_.key_mass = result.key_mass.data();
      capture_.key_span = scene.keys;
      capture_.pattern = result.pattern.data();
      capture_.top_k = scene.top_k;
      capture_.top_index = result.top_index.data();
      capture_.top_weight = result.top_weight.data();
    }
    for (const Scene::Cut& cut : scene.cuts)
      for (const std::vector<float>* from : {&scene.k, &scene.v}) {
        pointers_.emplace_back();
        for (int64_t g = 0; g < scene.shape.kv_heads; ++g)
          pointers_.back().push_back(from->data() + (g * scene.keys + cut.first) * dims);
      }
    for (size_t i = 0; i < scene.cuts.size(); ++i)
      runs_.push_back({pointers_[2 * i].data(), pointers_[2 * i + 1].data(), dims, scene.cuts[i].count,
                       scene.cuts[i].first, scene.cuts[i].segment});
    if (!scene.table.empty())
      edits_ = {scene.head_class.data(), scene.row_class.data() + first, 2, scene.table.data(),
                static_cast<int32_t>(runs_.size())};
    heads_.scale = scene.head_scale.empty() ? nullptr : scene.head_scale.data();
    heads_.add = scene.head_add.empty() ? nullptr : scene.head_add.data();
    item.q = scene.q.data() + first * row_floats;
    item.q_stride = item.out_stride = row_floats;
    item.out = result.out.data();
    item.limit = scene.limit.data() + first;
    item.low = scene.low.empty() ? nullptr : scene.low.data() + first;
    item.rows = rows;
    item.runs = runs_.data();
    item.run_count = static_cast<int32_t>(runs_.size());
    item.edits = scene.table.empty() ? nullptr : &edits_;
    item.head_edits = heads_.scale || heads_.add ? &heads_ : nullptr;
    item.capture = capture ? &capture_ : nullptr;
  }
  SceneItem(const SceneItem&) = delete;

  AttentionItem item{};
  Result result;

 private:
  std::vector<std::vector<const float*>> pointers_;
  std::vector<KeyRun> runs_;
  ScoreEdits edits_{};
  HeadEdits heads_;
  AttentionCapture capture_;
};

// Runs rows [first, last) of the scene; `capture` off leaves the read-outs empty.
inline Result run(const Scene& scene, ThreadPool& pool, bool capture = true, How how = How::kFast, int32_t first = 0,
                  int32_t last = -1) {
  SceneItem made(scene, capture, first, last < 0 ? scene.rows : last);
  if (how == How::kReference)
    attention_reference(scene.shape, &made.item, 1);
  else
    attention(scene.shape, &made.item, 1, pool);
  return std::move(made.result);
}

inline std::string name(const Scene& s) {
  return "H=" + std::to_string(s.shape.heads) + " G=" + std::to_string(s.shape.kv_heads) +
         " D=" + std::to_string(s.shape.head_dim) + " rows=" + std::to_string(s.rows) +
         " keys=" + std::to_string(s.keys) + " runs=" + std::to_string(s.cuts.size()) +
         (s.table.empty() ? "" : " edited") + (s.low.empty() ? "" : " windowed") +
         (s.head_scale.empty() ? "" : " head edits");
}

inline double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double worst = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    const bool same = a[i] == b[i] || (std::isinf(a[i]) && a[i] == b[i]);
    const double difference = std::fabs(static_cast<double>(a[i]) - b[i]);
    if (!same)
      worst = std::isfinite(difference) ? std::max(worst, difference) : std::numeric_limits<double>::infinity();
  }
  return worst;
}

template <typename T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

inline bool same_read_outs(const Result& a, const Result& b) {
  return same_bits(a.mass, b.mass) && same_bits(a.entropy, b.entropy) && same_bits(a.lse, b.lse) &&
         same_bits(a.key_mass, b.key_mass) && same_bits(a.pattern, b.pattern) && same_bits(a.top_index, b.top_index) &&
         same_bits(a.top_weight, b.top_weight);
}

// Largest error of the top keys of `got`: against the reference's weights in the same place, and against the
// reference's probability of the key named there. Two keys closer than rounding may change places, so indices alone say
// nothing. Infinite where the lists have different lengths, name a key twice or do not descend.
inline double top_error(const Scene& scene, const Result& got, const Result& want) {
  double worst = 0.0;
  const double never = std::numeric_limits<double>::infinity();
  const int64_t lists = static_cast<int64_t>(want.entropy.size());
  for (int64_t i = 0; i < lists; ++i) {
    const int32_t* index = got.top_index.data() + i * scene.top_k;
    const float* weight = got.top_weight.data() + i * scene.top_k;
    for (int32_t j = 0; j < scene.top_k; ++j) {
      const int32_t expected = want.top_index[i * scene.top_k + j];
      if ((index[j] < 0) != (expected < 0) || index[j] >= scene.keys) return never;
      if (std::find(index, index + j, index[j]) != index + j && index[j] >= 0) return never;
      if (j > 0 && weight[j] > weight[j - 1]) return never;
      worst = std::max(worst, std::fabs(static_cast<double>(weight[j]) - want.top_weight[i * scene.top_k + j]));
      if (index[j] >= 0)
        worst = std::max(worst, std::fabs(static_cast<double>(weight[j]) - want.pattern[i * scene.keys + index[j]]));
    }
  }
  return worst;
}

// Error of a score: its dot product of D terms, typical size `magnitude` each side; of a sum over S keys. Roundings add
// like a random walk; the factor 6 covers the largest of some 10^5 compared values.
inline void against_reference(const Scene& scene, ThreadPool& pool) {
  const Result got = run(scene, pool), want = run(scene, pool, true, How::kReference);
  double largest_q = 0.0, largest_k = 0.0, largest_v = 0.0, gain = scene.shape.scale, shift = 0.0, post = 1.0;
  const auto longest = [&](const std::vector<float>& x, double& norm) {
    for (size_t i = 0; i < x.size(); i += scene.shape.head_dim) {
      double sum = 0.0;
      for (int32_t d = 0; d < scene.shape.head_dim; ++d) sum += static_cast<double>(x[i + d]) * x[i + d];
      norm = std::max(norm, std::sqrt(sum));
    }
  };
  longest(scene.q, largest_q);
  longest(scene.k, largest_k);
  for (float value : scene.v) largest_v = std::max(largest_v, std::fabs(static_cast<double>(value)));
  for (const ScoreEdit& edit : scene.table) {
    gain = std::max(gain, static_cast<double>(scene.shape.scale * edit.gamma));
    shift = std::max(shift, std::fabs(static_cast<double>(edit.beta)));
    post = std::max(post, static_cast<double>(edit.post));
  }
  double out = post * largest_v;
  for (float factor : scene.head_scale) out = std::max(out, post * largest_v * factor);
  for (float mean : scene.head_add) out = std::max(out, post * largest_v + std::fabs(static_cast<double>(mean)));
  const double dot = kUnit * 6.0 * std::sqrt(scene.shape.head_dim + 4.0) * (gain * largest_q * largest_k + shift);
  const double sum = kUnit * 6.0 * std::sqrt(scene.keys + 8.0);
  const double relative = dot + sum, log_keys = std::log(scene.keys + 1.0) + 1.0;
  const std::string what = "differs from the reference: " + name(scene);
  const auto within = [&](double worst, double tolerance, const char* part) {
    EXPECT(worst <= tolerance, what + ", " + part + " by " + std::to_string(worst / tolerance) + " of the tolerance");
  };
  within(largest_difference(got.out, want.out), relative * out, "out");
  within(largest_difference(got.mass, want.mass), relative, "mass");
  within(largest_difference(got.lse, want.lse), dot + sum + kUnit * 4.0 * (gain * largest_q * largest_k + shift),
         "lse");
  within(largest_difference(got.entropy, want.entropy), 2.0 * relative * log_keys * log_keys, "entropy");
  within(largest_difference(got.key_mass, want.key_mass), relative * std::sqrt(scene.rows + 1.0) * 2.0, "key mass");
  within(largest_difference(got.pattern, want.pattern), relative, "pattern");
  within(top_error(scene, got, want), relative, "top keys");
}

}  // namespace galvani::testing
