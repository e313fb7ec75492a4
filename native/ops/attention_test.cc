// Attention of the instruction set in use (GALVANI_ISA) against its float64 specification and against itself. What
// hooks mean is tested in attention_hooks_test.cc.
#include "core/simd.h"
#include "ops/attention_scene.h"
#include "ops/attention_tile.h"

namespace galvani {
namespace {

using namespace testing;

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
    EXPECT(same_bits(other.out, whole.out) && same_read_outs(other, whole), "bits depend on threads: " + what);
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
    EXPECT(same_bits(other.out, whole.out) && same_read_outs(other, whole), "bits depend on how keys are cut: " + what);
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
    list[s] = {&key, &key, 1, 1, 0, false, gain.data(), &shift[s * lanes], nullptr, nullptr};
  }
  kernel.run({2, 1, q.data(), limit.data(), nullptr, list.data(), spans, weights.data(), o.data(), m.data(), l.data(),
              t.data()});
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

}  // namespace
}  // namespace galvani

int main() {
  using namespace galvani;
  testing::Random random(2);
  ThreadPool pool(2);
  std::printf("attention, %s\n", isa_name(cpu_isa()));
  exponential();
  shapes(random, pool);
  invariances(random, {28, 4, 128, 0.088f}, 23, 150);
  invariances(random, {4, 4, 24, 0.2f}, 40, 70);
  invariances(random, {6, 1, 16, 0.25f}, 11, 90);
  blocked_is_removed(random, {28, 4, 128, 0.088f}, 9, 120);
  blocked_is_removed(random, {4, 4, 24, 0.2f}, 33, 33);
  blocked_is_removed(random, {4, 2, 80, 0.11f}, 1, 200);
  extremes(random, pool);
  return testing::report();
}
