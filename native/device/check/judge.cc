#include "device/check/judge.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <optional>
#include <set>

#include "core/dtype.h"
#include "core/testing.h"
#include "device/check/reference.h"
#include "device/check/twin.h"
#include "ops/softmax_constants.h"

namespace galvani::gpu::check {
namespace {

constexpr double kLn2Exact = 0.69314718055994530942;
constexpr float kEmptyBelow = -1e28f;  // m of a state without keys, whatever its l

std::string text(double value) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.7g", value);
  return buffer;
}

// Which elements of a buffer are somebody's result.
class Touched {
 public:
  explicit Touched(size_t size) : marks_(size) {}
  void mark(int64_t at, int64_t count = 1) { std::fill_n(marks_.begin() + at, count, 1); }
  bool operator[](size_t i) const { return marks_[i] != 0; }
  size_t size() const { return marks_.size(); }

 private:
  std::vector<uint8_t> marks_;
};

class Judge {
 public:
  Judge(const Scene& scene, const SceneRun& run, const JudgeOptions& options, ThreadPool& pool)
      : s_(scene), run_(run), o_(run.outputs), options_(options), pool_(pool) {}

  Verdicts run() {
    fail_if(!run_.error.empty(), "launch", run_.error);
    if (!run_.error.empty()) return std::move(verdicts_);
    std::string changed;
    for (const std::string& what : run_.changed) changed += (changed.empty() ? "" : ", ") + what;
    fail_if(!changed.empty(), "guards and inputs", changed + " changed");
    choose_rows();
    if (s_.macs() <= options_.twin_macs) twin_ = run_twin(s_, pool_);
    rows();
    parts();
    probes();
    untouched();
    return std::move(verdicts_);
  }

 private:
  // ---- Verdicts ----

  void fail_if(bool failed, const char* check, const std::string& what) {
    Verdict& verdict = verdicts_[check];
    ++verdict.compared;
    if (!failed) return;
    if (verdict.failed++ == 0) verdict.where = what;
    verdict.worst = std::numeric_limits<double>::infinity();
  }

  void near(const char* check, double got, double expected, double tolerance, const std::string& place) {
    Verdict& verdict = verdicts_[check];
    ++verdict.compared;
    const bool same = got == expected;  // infinities
    const double ratio = same ? 0.0 : std::abs(got - expected) / tolerance;
    if (ratio <= 1.0) {  // false for NaN
      verdict.worst = std::max(verdict.worst, ratio);
      return;
    }
    if (verdict.failed++ == 0)
      verdict.where = place + ": expected " + text(expected) + " ± " + text(tolerance) + ", got " + text(got);
    verdict.worst = std::isnan(ratio) ? std::numeric_limits<double>::infinity() : std::max(verdict.worst, ratio);
  }

  static std::string place(int32_t token, int32_t head) {
    return "token " + std::to_string(token) + " head " + std::to_string(head);
  }

  // Rounding of one row's probabilities, relative.
  static double relative(const RowReference& row) {
    return 2.0 * kLn2Exact * row.slack + (row.empty ? 0.0 : 0x1.0p-21 * std::abs(row.log2_sum));
  }
  static double lse_tolerance(const RowReference& row) {
    return 1e-3 + kLn2Exact * row.slack + (row.empty ? 0.0 : 0x1.0p-22 * std::abs(row.lse));
  }
  static double entropy_tolerance(const RowReference& row) { return 1e-3 + 2.0 * relative(row) * (1.0 + row.entropy); }
  static double mass_tolerance(const RowReference& row, double mass) { return 1e-4 + relative(row) * mass; }
  // Rounded probabilities, and the float32 sum.
  static double sum_tolerance(const RowReference& row, double size) {
    return 1e-6 + (0x1.0p-8 + 0x1.0p-12 + relative(row)) * size;
  }
  // And a rounded result.
  static double out_tolerance(const RowReference& row, const FinalValue& out) {
    return sum_tolerance(row, out.size) + 0x1.0p-8 * std::abs(out.value);
  }

  // ---- Rows ----

  struct Row {
    int32_t block, token, head;
  };

  // All rows, or a sample with the first and last token of each block.
  void choose_rows() {
    const double keep =
        static_cast<double>(options_.reference_macs) / static_cast<double>(std::max<int64_t>(1, s_.macs()));
    testing::Random random(s_.seed + 77);
    chosen_.assign(static_cast<size_t>(s_.tokens) * s_.heads, 0);
    for (int32_t b = 0; b < static_cast<int32_t>(s_.blocks.size()); ++b) {
      const QueryBlock& block = s_.blocks[b];
      const int32_t head = static_cast<int32_t>(random.below(s_.heads));
      for (int32_t t = block.token0; t < block.token0 + block.tokens; ++t)
        for (int32_t h = 0; h < s_.heads; ++h) {
          const bool edge = h == head && (t == block.token0 || t == block.token0 + block.tokens - 1);
          if (!edge && random.uniform() >= keep) continue;
          chosen_[static_cast<size_t>(t) * s_.heads + h] = 1;
          rows_.push_back({b, t, h});
        }
    }
  }

  // References are made in parallel and looked at in order.
  template <class Make, class Look>
  void in_chunks(size_t count, Make make, Look look) {
    constexpr size_t kChunk = 64;
    std::vector<RowReference> made(kChunk);
    for (size_t from = 0; from < count; from += kChunk) {
      const size_t n = std::min(kChunk, count - from);
      pool_.run(static_cast<int64_t>(n),
                [&](int64_t i) { made[static_cast<size_t>(i)] = make(from + static_cast<size_t>(i)); });
      for (size_t i = 0; i < n; ++i) look(from + i, made[i]);
    }
  }

  void rows() {
    in_chunks(
        rows_.size(),
        [&](size_t i) {
          const QueryBlock& block = s_.blocks[rows_[i].block];
          return reference_row(s_, rows_[i].token, rows_[i].head, block.runs, block.run_count);
        },
        [&](size_t i, const RowReference& row) { look_at_row(rows_[i], row); });
  }

  void look_at_row(const Row& at, const RowReference& row) {
    const std::string where = place(at.token, at.head);
    const int64_t out = at.token * s_.out_stride + int64_t{at.head} * s_.head_dim;
    double error = 0.0, size = 0.0;
    for (int32_t d = 0; d < s_.head_dim; ++d) {
      const FinalValue expected = final_value(s_, row, at.token, at.head, d);
      const double got = bf16_to_float(o_.out[out + d]);
      near("out", got, expected.value, out_tolerance(row, expected), where);
      error += (got - expected.value) * (got - expected.value);
      size += expected.size * expected.size;
    }
    near("out norm", std::sqrt(error), 0.0, 1e-6 + (6e-3 + relative(row)) * std::sqrt(size), where);
    if (twin_) look_at_twin(at, row, where);
    const int64_t capture = s_.capture_of(at.token);
    if (capture < 0) return;
    const int64_t state = capture * s_.heads + at.head;
    if (o_.lse.wanted()) near("lse", o_.lse[state], row.lse, lse_tolerance(row), where);
    if (o_.entropy.wanted()) near("entropy", o_.entropy[state], row.entropy, entropy_tolerance(row), where);
    for (int32_t g = 0; o_.mass.wanted() && g < s_.segments; ++g)
      near("mass", o_.mass[state * s_.segments + g], row.mass[g], mass_tolerance(row, row.mass[g]),
           where + " segment " + std::to_string(g));
    if (s_.top_k > 0) top(state, row, where);
  }

  void top(int64_t state, const RowReference& row, const std::string& where) {
    const int64_t found = std::min<int64_t>(s_.top_k, static_cast<int64_t>(row.keys.size()));
    std::vector<RowKey> sorted = row.keys;
    std::stable_sort(sorted.begin(), sorted.end(), [](const RowKey& a, const RowKey& b) { return a.x > b.x; });
    std::set<int32_t> seen;
    for (int32_t i = 0; i < s_.top_k; ++i) {
      const int32_t index = o_.top_index[state * s_.top_k + i];
      const float weight = o_.top_weight[state * s_.top_k + i];
      const std::string at = where + " rank " + std::to_string(i);
      if (i >= found) {
        fail_if(index != -1 || weight != 0.0f, "top-k",
                at + ": expected nothing, got key " + std::to_string(index) + " weight " + text(weight));
        continue;
      }
      const auto key =
          std::find_if(row.keys.begin(), row.keys.end(), [&](const RowKey& k) { return k.index == index; });
      const bool fresh = seen.insert(index).second;
      fail_if(key == row.keys.end() || !fresh, "top-k",
              at + ": key " + std::to_string(index) + " is not visible or twice");
      if (key == row.keys.end()) continue;
      const double tolerance = mass_tolerance(row, key->p);
      near("top-k weight", weight, key->p, tolerance, at);
      near("top-k order", key->p, sorted[i].p, 2.0 * tolerance, at + " key " + std::to_string(index));
      // An exact tie (equal keys under one edit) goes to the earlier key.
      if (key->x == sorted[i].x)
        fail_if(index != sorted[i].index, "top-k ties",
                at + ": expected key " + std::to_string(sorted[i].index) + ", got " + std::to_string(index));
    }
  }

  // ---- What items wrote: run_max of each row, partial states ----

  void parts() {
    struct Part {
      const AttnItem* item;
      int32_t token, head, row;
    };
    std::vector<Part> parts;
    for (const std::vector<AttnItem>& items : run_.plan.items)
      for (const AttnItem& item : items)
        for (int32_t i = 0; i < item.tokens * item.heads; ++i) {
          const Part part{&item, item.token0 + i / item.heads, item.head0 + i % item.heads, i};
          const bool looked_at = item.slot >= 0 || (o_.run_max.wanted() && s_.capture_of(part.token) >= 0);
          if (looked_at && chosen_[static_cast<size_t>(part.token) * s_.heads + part.head]) parts.push_back(part);
        }
    in_chunks(
        parts.size(),
        [&](size_t i) {
          return reference_row(s_, parts[i].token, parts[i].head, run_.plan.runs.data() + parts[i].item->run_begin,
                               parts[i].item->run_count);
        },
        [&](size_t i, const RowReference& row) {
          const Part& part = parts[i];
          const std::string where = place(part.token, part.head) + " run " + std::to_string(part.item->run_order);
          const int64_t capture = s_.capture_of(part.token);
          if (o_.run_max.wanted() && capture >= 0)
            maxima((capture * s_.heads + part.head) * run_.plan.run_max_stride + part.item->run_order, row, where);
          if (part.item->slot >= 0) state(part.item->slot + part.row, row, where);
        });
  }

  void maxima(int64_t at, const RowReference& row, const std::string& where) {
    for (size_t r = 0; r < row.run_max.size(); ++r) {
      const double expected = row.run_max[r], got = o_.run_max[at + static_cast<int64_t>(r)];
      const std::string place = where + " + " + std::to_string(r);
      if (std::isinf(expected))
        fail_if(!(got <= kEmptyBelow), "run_max", place + ": expected an empty run, got " + text(got));
      else
        near("run_max", got, expected, 1e-3 + row.slack + 0x1.0p-21 * std::abs(expected), place);
    }
  }

  void state(int64_t slot, const RowReference& row, const std::string& where) {
    const double m = o_.part_state[slot * 4], l = o_.part_state[slot * 4 + 1], t = o_.part_state[slot * 4 + 2];
    const std::string place = where + " slot " + std::to_string(slot);
    if (row.empty) {
      fail_if(!(m <= kEmptyBelow), "partial state", place + ": expected an empty state, got m " + text(m));
    } else {
      near("partial state", m + std::log2(l), row.log2_sum, lse_tolerance(row) / kLn2Exact, place);
      if (o_.entropy.wanted() || o_.mass.wanted() || o_.run_max.wanted())  // else t is 0
        near("partial entropy", kLn2Exact * (std::log2(l) - t / l), row.entropy, entropy_tolerance(row), place);
      for (int32_t d = 0; d < s_.head_dim; ++d)
        near("partial out", o_.part_o[slot * s_.head_dim + d] / l, row.out[d], sum_tolerance(row, row.out_size[d]),
             place);
    }
    for (int32_t g = 0; o_.part_segment.wanted() && g < s_.segments; ++g) {
      const double mg = o_.part_segment[(slot * s_.segments + g) * 2],
                   lg = o_.part_segment[(slot * s_.segments + g) * 2 + 1];
      const double mass = mg <= kEmptyBelow || lg == 0.0 ? 0.0
                          : row.empty                    ? 1.0
                                                         : std::exp2(mg + std::log2(lg) - row.log2_sum);
      near("partial mass", std::isnan(mg) || std::isnan(lg) ? mg + lg : mass, row.mass[g],
           mass_tolerance(row, row.mass[g]), place + " segment " + std::to_string(g));
    }
  }

  // ---- Probabilities by column ----

  void probes() {
    if (!o_.key_mass.wanted() && !o_.pattern.wanted()) return;
    for (const Probe& probe : s_.probes) {
      const QueryBlock& block = s_.blocks[probe.block];
      int64_t keys = 0;
      for (int32_t r = 0; r < block.run_count; ++r) keys += block.runs[r].count;
      const int64_t head_macs = std::max<int64_t>(1, int64_t{probe.tokens} * keys * s_.head_dim * 2);
      const int32_t heads = static_cast<int32_t>(std::clamp<int64_t>(options_.reference_macs / head_macs, 1, s_.heads));
      for (int32_t i = 0; i < heads; ++i)  // spread over all heads when they are sampled
        probe_head(probe, block, static_cast<int32_t>(int64_t{i} * s_.heads / heads));
    }
  }

  void probe_head(const Probe& probe, const QueryBlock& block, int32_t head) {
    const auto range = [&](auto visit) {
      for (int32_t r = 0; r < block.run_count; ++r)
        for (int32_t j = 0; j < block.runs[r].count; ++j) visit(block.runs[r].index + j);
    };
    std::vector<double> sum(static_cast<size_t>(s_.key_span)), tolerance(sum.size(), 1e-4), p(sum.size());
    std::vector<int32_t> tokens;
    for (int32_t t = probe.token0; t < probe.token0 + probe.tokens; ++t)
      if (s_.capture_of(t) >= 0) tokens.push_back(t);
    in_chunks(
        tokens.size(), [&](size_t i) { return reference_row(s_, tokens[i], head, block.runs, block.run_count); },
        [&](size_t i, const RowReference& row) {
          std::fill(p.begin(), p.end(), 0.0);
          for (const RowKey& key : row.keys) {
            const size_t column = static_cast<size_t>(probe.base + key.index);
            p[column] = key.p;
            sum[column] += key.p;
            tolerance[column] += relative(row) * key.p;
          }
          if (!o_.pattern.wanted()) return;
          const int64_t at = (int64_t{s_.capture_of(tokens[i])} * s_.heads + head) * s_.key_span;
          range([&](int32_t index) {
            const int64_t column = probe.base + index;
            near("pattern", o_.pattern[at + column], p[static_cast<size_t>(column)],
                 mass_tolerance(row, p[static_cast<size_t>(column)]),
                 place(tokens[i], head) + " key " + std::to_string(index));
          });
        });
    if (!o_.key_mass.wanted()) return;
    range([&](int32_t index) {
      const int64_t column = probe.base + index;
      near("key_mass", o_.key_mass[head * s_.key_span + column], sum[static_cast<size_t>(column)],
           tolerance[static_cast<size_t>(column)], "head " + std::to_string(head) + " key " + std::to_string(index));
    });
  }

  // ---- Everything that belongs to a row is written, nothing else is ----

  static bool is_number(float value) { return !std::isnan(value); }
  static bool is_number(uint16_t bits) { return !std::isnan(bf16_to_float(bits)); }
  static bool is_number(int32_t) { return true; }

  template <class T>
  void written(const Output<T>& output, const Touched& touched, const char* name) {
    if (!output.wanted()) return;
    Verdict& verdict = verdicts_[std::string("written ") + name];
    for (size_t i = 0; i < touched.size(); ++i) {
      ++verdict.compared;
      const bool number = is_number(output.data[i]);
      if (touched[i] ? number && !output.untouched(static_cast<int64_t>(i)) : output.untouched(static_cast<int64_t>(i)))
        continue;
      verdict.worst = std::numeric_limits<double>::infinity();
      if (verdict.failed++ == 0)
        verdict.where = "element " + std::to_string(i) +
                        (touched[i] ? " was not written, or is NaN" : " belongs to nobody and was written");
    }
  }

  void untouched() {
    Touched out(o_.out.data.size()), lse(o_.lse.data.size()), entropy(o_.entropy.data.size()),
        mass(o_.mass.data.size()), top_index(o_.top_index.data.size()), top_weight(o_.top_weight.data.size()),
        key_mass(o_.key_mass.data.size()), pattern(o_.pattern.data.size()), run_max(o_.run_max.data.size());
    for (const QueryBlock& block : s_.blocks)
      for (int32_t t = block.token0; t < block.token0 + block.tokens; ++t) {
        out.mark(t * s_.out_stride, int64_t{s_.heads} * s_.head_dim);
        const int64_t capture = s_.capture_of(t), row = capture * s_.heads;
        if (capture < 0) continue;
        if (lse.size()) lse.mark(row, s_.heads);
        if (entropy.size()) entropy.mark(row, s_.heads);
        if (mass.size()) mass.mark(row * s_.segments, int64_t{s_.heads} * s_.segments);
        if (top_index.size()) top_index.mark(row * s_.top_k, int64_t{s_.heads} * s_.top_k);
        if (top_weight.size()) top_weight.mark(row * s_.top_k, int64_t{s_.heads} * s_.top_k);
      }
    for (const std::vector<AttnItem>& items : run_.plan.items)
      for (const AttnItem& item : items)
        for (int32_t i = 0; run_max.size() && i < item.tokens * item.heads; ++i) {
          const int64_t capture = s_.capture_of(item.token0 + i / item.heads);
          if (capture >= 0)
            run_max.mark((capture * s_.heads + item.head0 + i % item.heads) * run_.plan.run_max_stride + item.run_order,
                         item.run_count);
        }
    for (const Probe& probe : s_.probes)
      for (int32_t r = 0; r < s_.blocks[probe.block].run_count; ++r) {
        const PageRun& run = s_.blocks[probe.block].runs[r];
        const int64_t column = probe.base + run.index;
        for (int32_t h = 0; key_mass.size() && h < s_.heads; ++h) key_mass.mark(h * s_.key_span + column, run.count);
        for (int32_t t = probe.token0; pattern.size() && t < probe.token0 + probe.tokens; ++t)
          for (int32_t h = 0; s_.capture_of(t) >= 0 && h < s_.heads; ++h)
            pattern.mark((int64_t{s_.capture_of(t)} * s_.heads + h) * s_.key_span + column, run.count);
      }
    written(o_.out, out, "out");
    written(o_.lse, lse, "lse");
    written(o_.entropy, entropy, "entropy");
    written(o_.mass, mass, "mass");
    written(o_.run_max, run_max, "run_max");
    written(o_.top_index, top_index, "top_index");
    written(o_.top_weight, top_weight, "top_weight");
    written(o_.key_mass, key_mass, "key_mass");
    written(o_.pattern, pattern, "pattern");
  }

  // ---- The CPU twin, at twice the tolerance, since both round ----

  void look_at_twin(const Row& at, const RowReference& row, const std::string& where) {
    const int64_t here = int64_t{at.token} * s_.heads + at.head;
    const int64_t out = at.token * s_.out_stride + int64_t{at.head} * s_.head_dim;
    for (int32_t d = 0; d < s_.head_dim; ++d)
      near("twin out", bf16_to_float(o_.out[out + d]), twin_->out[here * s_.head_dim + d],
           2.0 * out_tolerance(row, final_value(s_, row, at.token, at.head, d)), where);
    const int64_t capture = s_.capture_of(at.token), state = capture * s_.heads + at.head;
    if (capture < 0) return;
    if (o_.lse.wanted()) near("twin lse", o_.lse[state], twin_->lse[here], 2.0 * lse_tolerance(row), where);
    if (o_.entropy.wanted())
      near("twin entropy", o_.entropy[state], twin_->entropy[here], 2.0 * entropy_tolerance(row), where);
    for (int32_t g = 0; o_.mass.wanted() && g < s_.segments; ++g)
      near("twin mass", o_.mass[state * s_.segments + g], twin_->mass[here * s_.segments + g],
           2.0 * mass_tolerance(row, row.mass[g]), where + " segment " + std::to_string(g));
    for (int32_t i = 0; i < s_.top_k; ++i)
      near("twin top-k", o_.top_weight[state * s_.top_k + i], twin_->top_weight[here * s_.top_k + i],
           2.0 * mass_tolerance(row, twin_->top_weight[here * s_.top_k + i]), where + " rank " + std::to_string(i));
  }

  const Scene& s_;
  const SceneRun& run_;
  const DeviceOutputs& o_;
  const JudgeOptions& options_;
  ThreadPool& pool_;
  Verdicts verdicts_;
  std::optional<TwinResult> twin_;
  std::vector<Row> rows_;
  std::vector<uint8_t> chosen_;  // (tokens, H)
};

}  // namespace

Verdicts judge(const Scene& scene, const SceneRun& run, const JudgeOptions& options, ThreadPool& pool) {
  return Judge(scene, run, options, pool).run();
}

bool passed(const Verdicts& verdicts) {
  return std::all_of(verdicts.begin(), verdicts.end(), [](const auto& entry) { return entry.second.failed == 0; });
}

}  // namespace galvani::gpu::check
