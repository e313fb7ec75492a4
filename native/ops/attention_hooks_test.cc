// What the hooks of attention mean (attention_hooks.h): identities between runs of the instruction set in use, the
// algebra they rest on, and random programs of hooks against the float64 specification.
#include "core/simd.h"
#include "ops/attention_scene.h"
#include "ops/softmax_state.h"

namespace galvani {
namespace {

using namespace testing;

constexpr int32_t kNoLimit = std::numeric_limits<int32_t>::max();

// The algebra itself: any split and order of merging gives the state of the whole set, within rounding.
template <typename Rescale>
double merge_error(Random& random, Rescale rescale) {
  const int keys = 40;
  std::vector<double> x;
  for (int i = 0; i < keys; ++i) x.push_back(6.0 * random.normal());
  double m = -1e30, l = 0.0, t = 0.0;
  for (double value : x) m = std::max(m, value);
  for (double value : x) l += std::exp2(value - m);
  for (double value : x) t += std::exp2(value - m) * (value - m);
  const double entropy = std::log(2.0) * (std::log2(l) - t / l), lse = std::log(2.0) * (m + std::log2(l));
  std::vector<SoftmaxState> parts(keys);
  for (int i = 0; i < keys; ++i) {
    parts[i].m = static_cast<float>(x[i]);
    parts[i].add(static_cast<float>(x[i]));
  }
  while (parts.size() > 1) {
    const size_t i = random.below(parts.size());
    SoftmaxState b = parts[i];
    parts.erase(parts.begin() + static_cast<int64_t>(i));
    SoftmaxState& a = parts[random.below(parts.size())];
    const float to = std::max(a.m, b.m);
    rescale(a, to);
    rescale(b, to);
    a.l += b.l;
    a.t += b.t;
  }
  return std::max(std::fabs(parts[0].entropy() - entropy), std::fabs(parts[0].lse() - lse));
}

void algebra(Random& random) {
  double planted = 0.0;
  for (int trial = 0; trial < 200; ++trial) {
    const double error = merge_error(random, [](SoftmaxState& s, float to) { s.rescale(to); });
    EXPECT(error < 2e-5, "merging in another order changes the state by " + std::to_string(error));
    planted = std::max(planted, merge_error(random, [](SoftmaxState& s, float to) {
                         const float a = std::exp2(s.m - to);  // the forgotten d·l term
                         s.t *= a;
                         s.l *= a;
                         s.m = to;
                       }));
    SoftmaxState a, b, empty;
    a.m = 3.0f * random.normal();
    b.m = 3.0f * random.normal();
    a.add(a.m - 1.0f);
    b.add(b.m - 0.5f);
    SoftmaxState ab = a, ba = b, with_empty = a, from_empty = empty;
    merge(ab, b);
    merge(ba, a);
    merge(with_empty, empty);
    merge(from_empty, a);
    EXPECT(ab.m == ba.m && ab.l == ba.l && ab.t == ba.t, "merge must commute to the bit");
    EXPECT(with_empty.m == a.m && with_empty.l == a.l && with_empty.t == a.t, "merging nothing must change nothing");
    EXPECT(from_empty.m == a.m && from_empty.l == a.l && from_empty.t == a.t, "merging into nothing must copy");
  }
  EXPECT(planted > 0.1, "a merge without its d·l term must be caught, worst error " + std::to_string(planted));
}

// Beyond the limit, above the limit from below, blocked, no keys at all: zeros, never NaN. A head edit acts all the
// same.
void empty_rows(Random& random, ThreadPool& pool) {
  const int32_t rows = 6, heads = 4, dims = 24;
  Scene scene(random, {heads, 2, dims, 0.2f}, rows, 30, false);
  scene.limit = {-1, 0, -1, 29, 5, -1};
  Scene blocked = scene, nothing = scene, beyond = scene;
  blocked.head_class.assign(heads, 0);
  blocked.row_class = {1, 1, 1, 1, 1, 0};
  blocked.table.assign(4, {});
  blocked.table[1].blocked = true;  // head class 0, row class 1
  nothing.cuts.clear();
  beyond.limit.assign(rows, 12);
  beyond.low = {13, 0, 30, kNoLimit, 12, 100};
  const std::vector<uint8_t> sees_none[] = {
      {1, 0, 1, 0, 0, 1}, {1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 1, 1}, {1, 0, 1, 1, 0, 1}};
  const Scene* scenes[] = {&scene, &blocked, &nothing, &beyond};
  for (int i = 0; i < 4; ++i)
    for (How how : {How::kFast, How::kReference})
      for (bool edited : {false, true}) {
        Scene s = *scenes[i];
        if (edited) s.head_edits_at_random(random);
        const Result got = run(s, pool, true, how);
        for (int32_t r = 0; r < rows; ++r) {
          bool good = true;
          for (int32_t h = 0; h < heads; ++h) {
            const int32_t at = r * heads + h;
            if (!sees_none[i][r]) {
              good &= got.lse[at] > -1e30f && got.top_index[at * s.top_k] >= 0;
              continue;
            }
            for (int32_t d = 0; d < dims; ++d)
              good &= got.out[at * dims + d] == (edited ? s.head_add[h * dims + d] : 0.0f);
            good &= got.mass[at] == 0.0f && got.entropy[at] == 0.0f;
            good &= got.lse[at] == -std::numeric_limits<float>::infinity();
            for (int32_t k = 0; k < 30; ++k) good &= got.pattern[at * 30 + k] == 0.0f;
            for (int32_t k = 0; k < s.top_k; ++k)
              good &= got.top_index[at * s.top_k + k] == -1 && got.top_weight[at * s.top_k + k] == 0.0f;
          }
          EXPECT(good, "an empty row must give zeros, lse −∞ and no top key: scene " + std::to_string(i) + " row " +
                           std::to_string(r));
        }
      }
}

// Rows that are not captured leave no trace; captured ones go where they are sent. An item's captures, each over rows
// of its own, give what they give alone.
void captured_rows(Random& random, ThreadPool& pool) {
  Scene scene(random, {4, 2, 24, 0.2f}, 20, 45, true);
  scene.cut_at_random(random, 9, 3);
  const Result all = run(scene, pool);
  scene.capture_row.assign(20, -1);
  scene.capture_row[3] = 1;
  scene.capture_row[19] = 0;
  const Result got = run(scene, pool), want = run(scene, pool, true, How::kReference);
  EXPECT(got.entropy.size() == 8, "two captured rows of four heads");
  bool equal = true;
  for (int32_t h = 0; h < 4; ++h)
    for (auto [from, to] : {std::pair{3, 1}, std::pair{19, 0}}) {
      const int32_t a = from * 4 + h, b = to * 4 + h;
      equal &= all.entropy[a] == got.entropy[b] && all.lse[a] == got.lse[b];
      equal &= std::memcmp(&all.mass[a * 3], &got.mass[b * 3], 3 * sizeof(float)) == 0;
      equal &= std::memcmp(&all.pattern[a * 45], &got.pattern[b * 45], 45 * sizeof(float)) == 0;
      equal &= std::memcmp(&all.top_index[a * 3], &got.top_index[b * 3], 3 * sizeof(int32_t)) == 0;
      equal &= std::memcmp(&all.top_weight[a * 3], &got.top_weight[b * 3], 3 * sizeof(float)) == 0;
    }
  EXPECT(equal, "captured rows must be the rows of the whole capture");
  double sum = 0.0;
  for (float x : got.key_mass) sum += x;
  EXPECT(std::fabs(sum - 8.0) < 1e-5,
         "two captured rows of four heads must give a key mass of 8, got " + std::to_string(sum));
  EXPECT(largest_difference(got.key_mass, want.key_mass) < 1e-5, "key mass of the captured rows");

  Scene other = scene;
  other.capture_row.assign(20, -1);
  other.capture_row[0] = 0;
  other.capture_row[7] = 1;
  other.capture_row[8] = 2;
  other.top_k = 7;
  for (How how : {How::kFast, How::kReference}) {
    SceneItem first(scene, true, 0, 20), second(other, true, 0, 20);
    const AttentionCapture captures[] = {*first.item.capture, *second.item.capture};
    AttentionItem item = first.item;
    item.capture = captures;
    item.captures = 2;
    how == How::kFast ? attention(scene.shape, &item, 1, pool) : attention_reference(scene.shape, &item, 1);
    EXPECT(same_read_outs(first.result, run(scene, pool, true, how)) &&
               same_read_outs(second.result, run(other, pool, true, how)),
           "two captures of one item must give what each gives alone");
  }
}

// A window equals the same row without the keys outside it, and those outside every window are never read.
void windows(Random& random, AttentionShape shape, int32_t rows, int32_t keys, bool causal) {
  ThreadPool two(2);
  Scene scene(random, shape, rows, keys, causal);
  scene.cut_at_random(random, 9, 3);
  scene.windows_at_random(random, keys);
  const Result got = run(scene, two);
  const int64_t d = shape.head_dim;
  bool equal = true;
  for (int32_t r = 0; r < rows; ++r) {
    Scene trimmed = scene;
    trimmed.low.clear();
    trimmed.cuts.clear();
    for (Scene::Cut cut : scene.cuts) {
      const int32_t skip = std::max(0, scene.low[r] - cut.first);
      if (skip < cut.count) trimmed.cuts.push_back({cut.first + skip, cut.count - skip, cut.segment});
    }
    const Result want = run(trimmed, two, true, How::kFast, r, r + 1);
    const int64_t at = int64_t{r} * shape.heads;
    equal &= std::memcmp(&got.out[at * d], want.out.data(), want.out.size() * sizeof(float)) == 0;
    equal &= std::memcmp(&got.pattern[at * keys], want.pattern.data(), want.pattern.size() * sizeof(float)) == 0;
    equal &= std::memcmp(&got.mass[at * 3], want.mass.data(), want.mass.size() * sizeof(float)) == 0;
    equal &= std::memcmp(&got.top_index[at * 3], want.top_index.data(), want.top_index.size() * sizeof(int32_t)) == 0;
    equal &= std::memcmp(&got.lse[at], want.lse.data(), want.lse.size() * sizeof(float)) == 0;
    equal &= std::memcmp(&got.entropy[at], want.entropy.data(), want.entropy.size() * sizeof(float)) == 0;
  }
  EXPECT(equal, "a window differs from removing the keys outside it: " + name(scene));

  const int32_t first = *std::min_element(scene.low.begin(), scene.low.end());
  for (int32_t g = 0; g < shape.kv_heads; ++g)
    for (int64_t i = 0; i < std::max<int64_t>(0, first) * d; ++i)
      scene.k[g * keys * d + i] = scene.v[g * keys * d + i] = std::numeric_limits<float>::quiet_NaN();
  EXPECT(same_bits(run(scene, two).out, got.out), "keys outside every window were read: " + name(scene));
  Scene open = scene;
  open.low.assign(rows, std::numeric_limits<int32_t>::min());
  Scene none = open;
  none.low.clear();
  EXPECT(same_bits(run(open, two).out, run(none, two).out), "a window of everything changes bits: " + name(scene));
}

// Post-softmax factors act on the output alone, and linearly.
void post_scaling(Random& random, AttentionShape shape, int32_t rows, int32_t keys) {
  ThreadPool two(2);
  Scene scene(random, shape, rows, keys, true);
  scene.cut_at_random(random, 9, 3);
  scene.edit_at_random(random);
  for (ScoreEdit& edit : scene.table) edit.post = 1.0f;
  const Result plain = run(scene, two);
  const auto with = [&](auto factor) {
    Scene s = scene;
    for (size_t i = 0; i < s.table.size(); ++i) s.table[i].post = factor(i % s.cuts.size());
    return run(s, two);
  };
  const Result even = with([](size_t run) { return run % 2 ? 0.0f : 1.0f; });
  const Result odd = with([](size_t run) { return run % 2 ? 1.0f : 0.0f; });
  const Result twice = with([](size_t) { return 2.0f; }), none = with([](size_t) { return 0.0f; });
  for (const Result* result : {&even, &odd, &twice, &none})
    EXPECT(same_read_outs(*result, plain), "a post-softmax factor changed a read-out: " + name(scene));
  bool doubled = true, zero = true;
  double worst = 0.0;
  for (size_t i = 0; i < plain.out.size(); ++i) {
    doubled &= twice.out[i] == 2.0f * plain.out[i];
    zero &= none.out[i] == 0.0f;
    worst = std::max(worst, std::fabs(static_cast<double>(even.out[i]) + odd.out[i] - plain.out[i]));
  }
  EXPECT(doubled, "a factor of 2 on every key must double the output: " + name(scene));
  EXPECT(zero, "a factor of 0 on every key must give 0: " + name(scene));
  EXPECT(worst < 6.0 * kUnit * 6.0 * std::sqrt(keys + 8.0), "the parts must add up, off by " + std::to_string(worst));
  EXPECT(largest_difference(even.out, plain.out) > 0.01, "a factor of 0 on half of the runs must change the output");
}

void head_edits(Random& random, ThreadPool& pool) {
  const int32_t heads = 6, dims = 20;
  Scene scene(random, {heads, 2, dims, 0.22f}, 13, 40, true);
  const Result plain = run(scene, pool);
  Scene edited = scene;
  edited.head_scale = {1.0f, 0.0f, 0.0f, 0.5f, 1.0f, -2.0f};
  edited.head_add.assign(heads * dims, 0.0f);
  for (int32_t h : {2, 4})
    for (int32_t d = 0; d < dims; ++d) edited.head_add[h * dims + d] = random.normal();
  const Result got = run(edited, pool);
  EXPECT(same_read_outs(got, plain), "a head edit changed a read-out");
  bool good = true;
  for (size_t i = 0; i < got.out.size(); ++i) {
    const size_t h = i / dims % heads, d = i % dims;
    good &= got.out[i] == edited.head_scale[h] * plain.out[i] + edited.head_add[h * dims + d];
  }
  EXPECT(good, "heads: kept, zeroed, replaced by a mean, scaled, shifted, scaled by a negative number");
  Scene alone = scene;
  alone.head_add = edited.head_add;
  const Result added = run(alone, pool);
  alone.head_add.clear();
  alone.head_scale = edited.head_scale;
  const Result scaled = run(alone, pool);
  good = true;
  for (size_t i = 0; i < got.out.size(); ++i) {
    const size_t h = i / dims % heads, d = i % dims;
    good &= added.out[i] == plain.out[i] + edited.head_add[h * dims + d];
    good &= scaled.out[i] == edited.head_scale[h] * plain.out[i];
  }
  EXPECT(good, "an addend without a scale, a scale without an addend");
}

// The top keys are the largest of the pattern, ties to the earlier key of the list.
void top_keys(Random& random, ThreadPool& pool) {
  Scene scene(random, {6, 2, 24, 0.2f}, 17, 60, true);
  scene.cut_at_random(random, 7, 3);
  scene.edit_at_random(random);
  scene.windows_at_random(random, 40);
  for (int32_t k : {1, 2, 5, 32, 100}) {
    scene.top_k = k;
    const Result got = run(scene, pool);
    bool good = true;
    for (int64_t i = 0; i < 17 * 6; ++i) {
      std::vector<int32_t> keys;
      for (int32_t key = 0; key < 60; ++key)
        if (got.pattern[i * 60 + key] > 0.0f) keys.push_back(key);
      std::stable_sort(keys.begin(), keys.end(),
                       [&](int32_t a, int32_t b) { return got.pattern[i * 60 + a] > got.pattern[i * 60 + b]; });
      for (int32_t j = 0; j < k; ++j) {
        const bool there = j < static_cast<int32_t>(keys.size());
        good &= got.top_index[i * k + j] == (there ? keys[j] : -1);
        good &= got.top_weight[i * k + j] == (there ? got.pattern[i * 60 + keys[j]] : 0.0f);
      }
    }
    EXPECT(good, "the top " + std::to_string(k) + " keys are not the largest of the pattern");
  }

  // All keys alike, handed over in an order that is not that of their indices.
  Scene equal(random, {2, 1, 16, 0.25f}, 3, 40, false);
  for (size_t i = 16; i < equal.k.size(); ++i) equal.k[i] = equal.k[i % 16];
  equal.cuts = {{20, 5, 0}, {3, 4, 0}, {30, 2, 0}};
  equal.top_k = 8;
  const std::vector<int32_t> order = {20, 21, 22, 23, 24, 3, 4, 5};
  for (How how : {How::kFast, How::kReference}) {
    const Result got = run(equal, pool, true, how);
    bool good = true;
    for (size_t i = 0; i < got.top_index.size(); ++i) good &= got.top_index[i] == order[i % 8];
    for (float weight : got.top_weight) good &= std::fabs(weight - 1.0f / 11.0f) < 1e-7f;
    EXPECT(good, "of equal keys the earlier of the list must come first");
  }

  // Keys so far below the largest that their probability is 0 in float32 are keys all the same; blocked ones are not.
  Scene far(random, {2, 1, 16, 1.0f}, 1, 10, false);
  for (float& x : far.q) x = 1.0f;
  for (size_t i = 0; i < far.k.size(); ++i) far.k[i] = i / 16 == 6 ? 30.0f : 0.0f;
  far.cuts = {{0, 4, 0}, {4, 6, 0}};
  far.head_class.assign(2, 0);
  far.row_class.assign(1, 0);
  far.table.assign(8, {});
  far.table[0].blocked = true;
  far.low = {5};
  far.top_k = 6;
  for (How how : {How::kFast, How::kReference}) {
    const Result got = run(far, pool, true, how);
    const std::vector<int32_t> want = {6, 5, 7, 8, 9, -1, 6, 5, 7, 8, 9, -1};
    EXPECT(got.top_index == want, "visible keys of probability 0 come last, in list order; hidden keys never");
    EXPECT(got.top_weight[0] == 1.0f && got.top_weight[1] == 0.0f, "their probability is 0");
  }
}

// Masses sum to 1, H = lse − Σ p s (the score's mean), and the pattern adds up to masses and column sums.
void identities(Random& random, ThreadPool& pool) {
  const int32_t rows = 33, heads = 6, keys = 97, segments = 5, dims = 80;
  Scene scene(random, {heads, 2, dims, 0.11f}, rows, keys, true);
  scene.cut_at_random(random, 12, segments);
  const Result got = run(scene, pool);
  std::vector<double> received(heads * keys, 0.0);
  for (int32_t i = 0; i < rows * heads; ++i) {
    double sum = 0.0;
    for (int32_t g = 0; g < segments; ++g) sum += got.mass[i * segments + g];
    EXPECT(std::fabs(sum - 1.0) < 2e-6, "segment masses must sum to 1, got " + std::to_string(sum));
    const int32_t row = i / heads, head = i % heads, group = head / 3;
    double mean = 0.0, worst = 0.0;
    for (int32_t j = 0; j <= scene.limit[row]; ++j) {
      double dot = 0.0;
      for (int32_t d = 0; d < dims; ++d)
        dot += static_cast<double>(scene.q[(row * heads + head) * dims + d]) * scene.k[(group * keys + j) * dims + d];
      const double score = dot * scene.shape.scale, p = std::exp(score - got.lse[i]);
      mean += p * score;
      worst = std::max(worst, std::fabs(p - got.pattern[i * keys + j]));
    }
    EXPECT(std::fabs(got.lse[i] - mean - got.entropy[i]) < 2e-5, "entropy must be lse − mean score");
    EXPECT(worst < 2e-6, "a probability must be exp(score − lse), off by " + std::to_string(worst));
    std::vector<double> of_segment(segments, 0.0);
    for (const Scene::Cut& cut : scene.cuts)
      for (int32_t j = cut.first; j < cut.first + cut.count; ++j) {
        of_segment[cut.segment] += got.pattern[i * keys + j];
        received[head * keys + j] += got.pattern[i * keys + j];
      }
    for (int32_t g = 0; g < segments; ++g)
      EXPECT(std::fabs(of_segment[g] - got.mass[i * segments + g]) < 2e-6, "the pattern must add up to the masses");
  }
  for (int32_t i = 0; i < heads * keys; ++i)
    EXPECT(std::fabs(received[i] - got.key_mass[i]) < 1e-5, "the pattern must add up to the column sums");
}

// Everything at once, as no one would think of it.
void random_programs(Random& random, ThreadPool& pool, int count) {
  for (int i = 0; i < count; ++i) {
    const int32_t groups = 1 + static_cast<int32_t>(random.below(3));
    const int32_t heads = groups * (1 + static_cast<int32_t>(random.below(7)));
    const int32_t dims = 1 + static_cast<int32_t>(random.below(40));
    const int32_t rows = 1 + static_cast<int32_t>(random.below(30));
    const int32_t keys = rows + static_cast<int32_t>(random.below(200));
    Scene scene(random, {heads, groups, dims, 1.0f / std::sqrt(static_cast<float>(dims))}, rows, keys,
                random.below(3) > 0, random.below(5) ? 1.0f : 3.0f);
    scene.cut_at_random(random, 1 + random.below(80), 1 + static_cast<int32_t>(random.below(6)));
    if (random.below(4) == 0)  // another order, some runs left out
      for (size_t c = scene.cuts.size(); c-- > 1;) {
        std::swap(scene.cuts[c], scene.cuts[random.below(static_cast<int64_t>(c) + 1)]);
        if (random.below(6) == 0) scene.cuts.erase(scene.cuts.begin() + static_cast<int64_t>(c));
      }
    if (random.below(3) > 0) scene.edit_at_random(random);
    if (random.below(2)) scene.windows_at_random(random, 1 + random.below(keys + 20));
    if (random.below(3) == 0) scene.head_edits_at_random(random);
    scene.top_k = 1 + static_cast<int32_t>(random.below(12));
    if (random.below(2))
      for (int32_t r = 0, next = 0; r < rows; ++r) scene.capture_row.push_back(random.below(3) ? next++ : -1);
    against_reference(scene, pool);
    const int32_t first = static_cast<int32_t>(random.below(rows));
    const Result whole = run(scene, pool), one = run(scene, pool, false, How::kFast, first, first + 1);
    EXPECT(std::memcmp(one.out.data(), whole.out.data() + int64_t{first} * heads * dims,
                       one.out.size() * sizeof(float)) == 0,
           "a row alone differs from the row among others: " + name(scene));
  }
}

}  // namespace
}  // namespace galvani

int main() {
  using namespace galvani;
  testing::Random random(3);
  ThreadPool pool(2);
  std::printf("attention hooks, %s\n", isa_name(cpu_isa()));
  algebra(random);
  empty_rows(random, pool);
  captured_rows(random, pool);
  windows(random, {28, 4, 128, 0.088f}, 9, 120, true);
  windows(random, {4, 4, 24, 0.2f}, 33, 33, true);
  windows(random, {4, 2, 80, 0.11f}, 12, 64, false);
  post_scaling(random, {28, 4, 128, 0.088f}, 9, 120);
  post_scaling(random, {4, 2, 20, 0.22f}, 21, 150);
  post_scaling(random, {3, 1, 1, 1.0f}, 1, 70);
  head_edits(random, pool);
  top_keys(random, pool);
  identities(random, pool);
  random_programs(random, pool, 250);
  return testing::report();
}
