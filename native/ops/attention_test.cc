// Attention of the instruction set in use (GALVANI_ISA) against its float64 specification and against itself.
#include "ops/attention.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "core/simd.h"
#include "core/testing.h"
#include "ops/attention_tile.h"
#include "ops/softmax_state.h"

namespace galvani {
namespace {

using testing::Random;
constexpr double kUnit = 0x1.0p-24;  // float32 rounding

// Queries, keys and everything that hooks can do to them, owned in one place.
struct Scene {
  AttentionShape shape;
  int32_t rows, keys, segments = 0;
  std::vector<float> q, k, v;  // (rows, H, D), (G, keys, D) twice
  std::vector<int32_t> limit;
  struct Cut {
    int32_t first, count, segment;
  };
  std::vector<Cut> cuts;
  std::vector<uint8_t> head_class, row_class, wanted;
  std::vector<ScoreEdit> table;  // [2][2][cuts], empty: no edits

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

  void edit_at_random(Random& random) {
    for (int32_t h = 0; h < shape.heads; ++h) head_class.push_back(static_cast<uint8_t>(random.below(2)));
    for (int32_t r = 0; r < rows; ++r) row_class.push_back(static_cast<uint8_t>(random.below(2)));
    table.assign(4 * cuts.size(), {});
    for (size_t i = cuts.size(); i < table.size(); ++i) {  // class (0, 0) stays unedited
      table[i].gamma = static_cast<float>(random.uniform() * 2.0);
      table[i].beta = random.normal();
      table[i].blocked = random.below(3) == 0;
    }
  }
};

struct Result {
  std::vector<float> out, mass, entropy, lse, key_mass;
};

enum class How { kFast, kReference };

// Runs rows [first, last) of the scene; `capture` off leaves the read-outs empty.
Result run(const Scene& scene, ThreadPool& pool, bool capture = true, How how = How::kFast, int32_t first = 0,
           int32_t last = -1) {
  const int64_t heads = scene.shape.heads, dims = scene.shape.head_dim, row_floats = heads * dims;
  if (last < 0) last = scene.rows;
  const int32_t rows = last - first;
  Result result;
  result.out.assign(rows * row_floats, 777.0f);
  AttentionCapture captures;
  if (capture) {
    result.mass.assign(rows * heads * scene.segments, 777.0f);
    result.entropy.assign(rows * heads, 777.0f);
    result.lse.assign(rows * heads, 777.0f);
    result.key_mass.assign(heads * scene.keys, 0.0f);
    captures = {scene.segments,     scene.wanted.empty() ? nullptr : scene.wanted.data() + first,
                result.mass.data(), result.entropy.data(),
                result.lse.data(),  result.key_mass.data(),
                scene.keys};
  }
  std::vector<std::vector<const float*>> pointers;
  std::vector<KeyRun> runs;
  for (const Scene::Cut& cut : scene.cuts)
    for (const std::vector<float>* from : {&scene.k, &scene.v}) {
      pointers.emplace_back();
      for (int64_t g = 0; g < scene.shape.kv_heads; ++g)
        pointers.back().push_back(from->data() + (g * scene.keys + cut.first) * dims);
    }
  for (size_t i = 0; i < scene.cuts.size(); ++i)
    runs.push_back({pointers[2 * i].data(), pointers[2 * i + 1].data(), dims, scene.cuts[i].count, scene.cuts[i].first,
                    scene.cuts[i].segment});
  ScoreEdits edits{};
  if (!scene.table.empty())
    edits = {scene.head_class.data(), scene.row_class.data() + first, 2, scene.table.data(),
             static_cast<int32_t>(runs.size())};
  AttentionItem item{scene.q.data() + first * row_floats,
                     row_floats,
                     result.out.data(),
                     row_floats,
                     scene.limit.data() + first,
                     rows,
                     runs.data(),
                     static_cast<int32_t>(runs.size()),
                     scene.table.empty() ? nullptr : &edits,
                     capture ? &captures : nullptr};
  if (how == How::kReference)
    attention_reference(scene.shape, &item, 1);
  else
    attention(scene.shape, &item, 1, pool);
  return result;
}

std::string name(const Scene& s) {
  return "H=" + std::to_string(s.shape.heads) + " G=" + std::to_string(s.shape.kv_heads) +
         " D=" + std::to_string(s.shape.head_dim) + " rows=" + std::to_string(s.rows) +
         " keys=" + std::to_string(s.keys) + " runs=" + std::to_string(s.cuts.size()) +
         (s.table.empty() ? "" : " edited");
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double worst = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    const bool same = a[i] == b[i] || (std::isinf(a[i]) && a[i] == b[i]);
    const double difference = std::fabs(static_cast<double>(a[i]) - b[i]);
    if (!same)
      worst = std::isfinite(difference) ? std::max(worst, difference) : std::numeric_limits<double>::infinity();
  }
  return worst;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// Error of a score: its dot product of D terms, typical size `magnitude` each side; of a sum over S keys. Roundings add
// like a random walk; the factor 6 covers the largest of some 10^5 compared values.
void against_reference(const Scene& scene, ThreadPool& pool) {
  const Result got = run(scene, pool), want = run(scene, pool, true, How::kReference);
  double largest_q = 0.0, largest_k = 0.0, largest_v = 0.0, gain = scene.shape.scale, shift = 0.0;
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
  }
  const double dot = kUnit * 6.0 * std::sqrt(scene.shape.head_dim + 4.0) * (gain * largest_q * largest_k + shift);
  const double sum = kUnit * 6.0 * std::sqrt(scene.keys + 8.0);
  const double relative = dot + sum, log_keys = std::log(scene.keys + 1.0) + 1.0;
  const std::string what = "differs from the reference: " + name(scene);
  const auto close = [&](const std::vector<float>& a, const std::vector<float>& b, double tolerance, const char* part) {
    const double worst = largest_difference(a, b);
    EXPECT(worst <= tolerance, what + ", " + part + " by " + std::to_string(worst / tolerance) + " of the tolerance");
  };
  close(got.out, want.out, relative * largest_v, "out");
  close(got.mass, want.mass, relative, "mass");
  close(got.lse, want.lse, dot + sum + kUnit * 4.0 * (gain * largest_q * largest_k + shift), "lse");
  close(got.entropy, want.entropy, 2.0 * relative * log_keys * log_keys, "entropy");
  close(got.key_mass, want.key_mass, relative * std::sqrt(scene.rows + 1.0) * 2.0, "key mass");
}

void shapes(Random& random, ThreadPool& pool) {
  struct Heads {
    int32_t heads, kv_heads;
  };
  for (int32_t dims : {1, 16, 20, 24, 64, 80, 96, 128})
    for (Heads h : {Heads{4, 4}, Heads{4, 2}, Heads{7, 1}, Heads{28, 4}})
      for (int32_t rows : {1, 3, 19, 40})
        for (int32_t extra : {0, 1, 13, 150}) {
          if (h.heads == 28 && rows == 40 && extra == 13) continue;  // keeps the whole under its seconds
          const AttentionShape shape{h.heads, h.kv_heads, dims, 1.0f / std::sqrt(static_cast<float>(dims))};
          Scene scene(random, shape, rows, rows + extra, (rows + extra) % 2 == 0);
          scene.cut_at_random(random, 1 + extra, 1 + static_cast<int32_t>(random.below(5)));
          if (extra % 2) scene.edit_at_random(random);
          against_reference(scene, pool);
        }
}

// Alone or in a batch, on one thread or five, however the keys are cut, hooked or not: the same bits.
void invariances(Random& random, AttentionShape shape, int32_t rows, int32_t keys) {
  ThreadPool one(1), two(2), five(5);
  Scene scene(random, shape, rows, keys, true);
  const std::string what = name(scene);
  const Result whole = run(scene, one);
  const int64_t row_floats = int64_t{shape.heads} * shape.head_dim;
  for (ThreadPool* pool : {&two, &five}) {
    const Result other = run(scene, *pool);
    EXPECT(same_bits(other.out, whole.out) && same_bits(other.key_mass, whole.key_mass),
           "bits depend on threads: " + what);
  }
  for (int32_t first = 0; first < rows; first += 3) {
    const int32_t last = std::min(rows, first + 1 + first % 5);
    const Result part = run(scene, two, false, How::kFast, first, last);
    EXPECT(std::memcmp(part.out.data(), whole.out.data() + first * row_floats, part.out.size() * sizeof(float)) == 0,
           "bits depend on the other rows: " + what + " row " + std::to_string(first));
  }
  EXPECT(same_bits(run(scene, one, false).out, whole.out), "bits depend on captures: " + what);
  Scene edited = scene;
  edited.head_class.assign(shape.heads, 1);
  edited.row_class.assign(rows, 1);
  edited.table.assign(4, {});
  EXPECT(same_bits(run(edited, one).out, whole.out), "an edit that edits nothing changes bits: " + what);
  for (int trial = 0; trial < 4; ++trial) {
    Scene cut = scene;
    cut.cut_at_random(random, 1 + trial * 20, 1);
    const Result other = run(cut, two);
    EXPECT(same_bits(other.out, whole.out) && same_bits(other.mass, whole.mass) &&
               same_bits(other.entropy, whole.entropy) && same_bits(other.lse, whole.lse) &&
               same_bits(other.key_mass, whole.key_mass),
           "bits depend on how keys are cut: " + what);
  }
}

// Blocking the keys of a run for every row, or for some, equals the same rows without those keys.
void blocked_is_removed(Random& random, AttentionShape shape, int32_t rows, int32_t keys) {
  ThreadPool two(2);
  Scene scene(random, shape, rows, keys, true);
  scene.cut_at_random(random, 9, 3);
  Scene blocked = scene, removed = scene;
  blocked.head_class.assign(shape.heads, 0);
  for (int32_t h = 0; h < shape.heads; h += 2) blocked.head_class[h] = 1;
  for (int32_t r = 0; r < rows; ++r) blocked.row_class.push_back(r % 3 != 0);
  blocked.table.assign(4 * scene.cuts.size(), {});
  removed.cuts.clear();
  for (size_t i = 0; i < scene.cuts.size(); ++i) {
    const bool drop = i % 2 == 1;
    blocked.table[3 * scene.cuts.size() + i].blocked = drop;  // head class 1, row class 1
    if (!drop) removed.cuts.push_back(scene.cuts[i]);
  }
  const Result a = run(blocked, two), plain = run(scene, two), without = run(removed, two);
  bool equal = true;
  for (int32_t r = 0; r < rows; ++r)
    for (int32_t h = 0; h < shape.heads; ++h) {
      const Result& want = blocked.head_class[h] && blocked.row_class[r] ? without : plain;
      const int64_t at = (int64_t{r} * shape.heads + h), d = shape.head_dim;
      equal &= std::memcmp(&a.out[at * d], &want.out[at * d], d * sizeof(float)) == 0;
      equal &= std::memcmp(&a.mass[at * 3], &want.mass[at * 3], 3 * sizeof(float)) == 0;
      equal &= a.entropy[at] == want.entropy[at] && a.lse[at] == want.lse[at];
    }
  EXPECT(equal, "blocking keys differs from removing them: " + name(scene));
}

void empty_rows(Random& random, ThreadPool& pool) {
  const AttentionShape shape{4, 2, 24, 0.2f};
  Scene scene(random, shape, 6, 30, false);
  scene.limit = {-1, 0, -1, 29, 5, -1};
  Scene blocked = scene;
  blocked.head_class.assign(4, 0);
  blocked.row_class = {1, 1, 1, 1, 1, 0};
  blocked.table.assign(4, {});
  blocked.table[1].blocked = true;  // head class 0, row class 1
  Scene nothing = scene;
  nothing.cuts.clear();
  for (const Scene* s : {&scene, &blocked, &nothing})
    for (How how : {How::kFast, How::kReference}) {
      const Result got = run(*s, pool, true, how);
      for (int32_t r = 0; r < 6; ++r) {
        if (s == &scene && scene.limit[r] >= 0) continue;
        bool good = true;
        for (int32_t i = r * 4 * 24; i < (r + 1) * 4 * 24; ++i) good &= got.out[i] == 0.0f;
        for (int32_t i = r * 4; i < r * 4 + 4; ++i)
          good &=
              got.mass[i] == 0.0f && got.entropy[i] == 0.0f && got.lse[i] == -std::numeric_limits<float>::infinity();
        EXPECT(good, "an empty row must give zeros and lse −∞: row " + std::to_string(r));
      }
    }
}

// Scores up to ±1e4: a key's probability is 0 or 1 to rounding, nothing overflows; and a NaN is not hidden.
void extremes(Random& random, ThreadPool& pool) {
  const AttentionShape shape{2, 1, 64, 1.0f};
  Scene scene(random, shape, 9, 50, true, 35.0f);
  const Result got = run(scene, pool), want = run(scene, pool, true, How::kReference);
  double top = 0.0;
  bool finite = true;
  for (float x : got.lse) top = std::max(top, static_cast<double>(x));
  for (const auto* list : {&got.out, &got.mass, &got.entropy, &got.lse})
    for (float x : *list) finite &= std::isfinite(x);
  EXPECT(finite && top > 1e4, "scores beyond ±1e4 must stay finite, largest lse " + std::to_string(top));
  // A base-2 score near 2^15 has spacing 2^−8; half of that (plus its dot product's own error) moves a probability.
  EXPECT(largest_difference(got.out, want.out) < 0.02,
         "out at huge scores: " + std::to_string(largest_difference(got.out, want.out)));
  scene.k[3] = std::numeric_limits<float>::quiet_NaN();
  const Result poisoned = run(scene, pool);
  EXPECT(std::isnan(poisoned.out.back()) && std::isnan(poisoned.lse.back()), "a NaN key must show in the output");
}

void wanted_rows(Random& random, ThreadPool& pool) {
  Scene scene(random, {4, 2, 24, 0.2f}, 20, 45, true);
  scene.cut_at_random(random, 9, 3);
  scene.wanted.assign(20, 0);
  scene.wanted[3] = scene.wanted[19] = 1;
  const Result got = run(scene, pool), want = run(scene, pool, true, How::kReference);
  for (int32_t r = 0; r < 20; ++r)
    EXPECT((got.entropy[r * 4] == 777.0f) == !scene.wanted[r], "row not wanted but written");
  double sum = 0.0;
  for (float x : got.key_mass) sum += x;
  EXPECT(std::fabs(sum - 8.0) < 1e-5,
         "two captured rows of four heads must give a key mass of 8, got " + std::to_string(sum));
  EXPECT(largest_difference(got.key_mass, want.key_mass) < 1e-5, "key mass of the wanted rows");
}

// The vector 2^x, through a tile whose scores are given by the shifts alone.
void exponential() {
  const AttentionKernel kernel = attention_kernel();
  const int lanes = 2 * kernel.width, spans = 4000;
  std::vector<float> shift(static_cast<size_t>(spans) * lanes), gain(lanes, 0.0f), q(lanes), o(lanes), m(lanes),
      l(lanes), t(lanes);
  std::vector<float> weights(shift.size());
  const std::vector<int32_t> limit(lanes, std::numeric_limits<int32_t>::max());
  const float key = 0.0f;
  std::vector<AttentionSpan> list(spans);
  Random random(5);
  for (int s = 0; s < spans; ++s) {
    for (int i = 0; i < lanes; ++i)
      shift[s * lanes + i] = s == 0 ? 0.0f
                                    : static_cast<float>(-random.uniform() * (s % 3 == 0   ? 1.0
                                                                              : s % 3 == 1 ? 20.0
                                                                                           : 140.0));
    list[s] = {&key, &key, 1, 1, 0, false, gain.data(), &shift[s * lanes], nullptr};
  }
  kernel.run(
      {2, 1, q.data(), limit.data(), list.data(), spans, weights.data(), o.data(), m.data(), l.data(), t.data()});
  double worst = 0.0;
  bool flushed = true;
  for (size_t i = 0; i < shift.size(); ++i) {
    const double exact = std::exp2(static_cast<double>(shift[i]));
    if (shift[i] < -126.0f)
      flushed &= weights[i] == 0.0f;
    else
      worst = std::max(worst, std::fabs(weights[i] - exact) / std::ldexp(1.0, std::ilogb(exact) - 23));
  }
  std::printf("2^x: largest error %.3f ulp over %zu values\n", worst, shift.size());
  EXPECT(worst <= 2.0, "2^x is off by " + std::to_string(worst) + " ulp");
  EXPECT(flushed, "2^x below −126 must be exactly 0");
  for (int i = 0; i < lanes; ++i) EXPECT(weights[i] == 1.0f && m[i] == 0.0f, "2^0 must be exactly 1");
}

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

// Masses sum to 1, and H = lse − Σ p s (the score's mean), both from the captures of real rows.
void identities(Random& random, ThreadPool& pool) {
  Scene scene(random, {6, 2, 80, 0.11f}, 33, 97, true);
  scene.cut_at_random(random, 12, 5);
  const Result got = run(scene, pool);
  for (int32_t i = 0; i < 33 * 6; ++i) {
    double sum = 0.0;
    for (int32_t g = 0; g < 5; ++g) sum += got.mass[i * 5 + g];
    EXPECT(std::fabs(sum - 1.0) < 2e-6, "segment masses must sum to 1, got " + std::to_string(sum));
    const int32_t row = i / 6, head = i % 6, group = head / 3;
    double mean = 0.0;
    for (int32_t j = 0; j <= scene.limit[row]; ++j) {
      double dot = 0.0;
      for (int32_t d = 0; d < 80; ++d)
        dot += static_cast<double>(scene.q[(row * 6 + head) * 80 + d]) * scene.k[(group * 97 + j) * 80 + d];
      const double score = dot * scene.shape.scale;
      mean += std::exp(score - got.lse[i]) * score;
    }
    EXPECT(std::fabs(got.lse[i] - mean - got.entropy[i]) < 2e-5, "entropy must be lse − mean score");
  }
}

}  // namespace
}  // namespace galvani

int main() {
  using namespace galvani;
  testing::Random random(2);
  ThreadPool pool(2);
  std::printf("attention, %s\n", isa_name(cpu_isa()));
  exponential();
  algebra(random);
  shapes(random, pool);
  invariances(random, {28, 4, 128, 0.088f}, 23, 150);
  invariances(random, {4, 4, 24, 0.2f}, 40, 70);
  invariances(random, {6, 1, 16, 0.25f}, 11, 90);
  blocked_is_removed(random, {28, 4, 128, 0.088f}, 9, 120);
  blocked_is_removed(random, {4, 4, 24, 0.2f}, 33, 33);
  blocked_is_removed(random, {4, 2, 80, 0.11f}, 1, 200);
  empty_rows(random, pool);
  extremes(random, pool);
  wanted_rows(random, pool);
  identities(random, pool);
  return testing::report();
}
