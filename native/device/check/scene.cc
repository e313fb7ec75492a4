#include "device/check/scene.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/dtype.h"
#include "core/testing.h"
#include "ops/softmax_constants.h"

namespace galvani::gpu::check {
namespace {

using testing::Random;
constexpr uint16_t kNaN = 0x7fc0;

class Maker {
 public:
  Maker(uint64_t seed, const SceneOptions& options)
      : random_(seed * 0x9e3779b97f4a7c15ull + 1), options_(options), real_(options.size == Size::kReal) {
    scene_.seed = seed;
  }

  Scene make() {
    shape();
    sequences();
    queries();
    programs();
    readouts();
    launches();
    return std::move(scene_);
  }

 private:
  bool chance(double p) { return random_.uniform() < p; }
  int32_t between(int32_t low, int32_t high) { return low + static_cast<int32_t>(random_.below(high - low + 1)); }
  template <class T>
  T one_of(std::initializer_list<T> values) {
    return values.begin()[random_.below(static_cast<int64_t>(values.size()))];
  }

  void shape() {
    Scene& s = scene_;
    const std::vector<int32_t>& dims = options_.head_dims;
    s.head_dim = dims[random_.below(static_cast<int64_t>(dims.size()))];
    if (real_) {
      s.kv_heads = one_of({2, 4, 8});
      s.heads = s.kv_heads * one_of({1, 4, 7, 8});
    } else {
      s.kv_heads = between(1, 3);
      s.heads = s.kv_heads * one_of({1, 2, 3, 4, 7});
    }
    s.segments = one_of({1, 2, 3, 5, 8, 16});
    s.scale = chance(0.8) ? 1.0f / std::sqrt(static_cast<float>(s.head_dim)) : 0.3f;
  }

  // ---- Keys ----

  uint32_t new_page() { return next_page_++; }  // shuffled at the end

  // Keys for `count` slots, segment by segment; each segment starts a page, or, rarely, inside one.
  void append(std::vector<PageRun>& list, int32_t& index, int32_t count) {
    int32_t left = count;
    int32_t used = kPageKeys;
    uint32_t page = 0;
    while (left > 0) {
      int32_t in_segment = std::min<int32_t>(left, chance(0.3) ? left : between(1, real_ ? 1200 : 130));
      left -= in_segment;
      const int32_t segment = between(0, scene_.segments - 1);
      if (chance(0.8)) used = kPageKeys;
      while (in_segment > 0) {
        if (used == kPageKeys) {
          page = new_page();
          used = chance(0.05) ? between(1, kPageKeys - 1) : 0;
        }
        const int32_t take = std::min(in_segment, chance(0.1) ? between(1, kPageKeys - used) : kPageKeys - used);
        list.push_back(
            {page, index, static_cast<uint16_t>(take), static_cast<uint8_t>(used), static_cast<uint8_t>(segment), 0});
        index += take;
        used += take;
        in_segment -= take;
      }
      if (chance(0.1)) index += between(1, 40);  // removed keys leave gaps in the indices
    }
  }

  int32_t key_count() {
    if (real_) return one_of({1, 63, 64, 65, 300, 1023, 2048, 4096, chance(0.3) ? 16384 : 3000});
    return chance(0.5) ? between(1, 129) : between(1, 400);
  }

  // Families of variants: one base list; others share a prefix of it, take another's pages in the middle, or both.
  void sequences() {
    const int32_t families = real_ ? between(1, 2) : between(1, 3);
    for (int32_t f = 0; f < families; ++f) {
      std::vector<PageRun> base;
      int32_t index = chance(0.2) ? between(1, 1000000) : 0;
      append(base, index, key_count());
      const int32_t variants = chance(0.5) ? 1 : between(2, real_ ? 12 : 5);
      scene_.lists.push_back(base);
      family_.push_back(f);
      for (int32_t n = 1; n < variants; ++n) {
        const size_t keep = chance(0.4) ? base.size() : static_cast<size_t>(random_.below(base.size() + 1));
        std::vector<PageRun> list(base.begin(), base.begin() + static_cast<std::ptrdiff_t>(keep));
        if (chance(0.3) && !list.empty()) swap_pages(list);
        int32_t at = list.empty() ? base[0].index : list.back().index + list.back().count;
        if (chance(0.8)) append(list, at, between(1, 100));
        if (list.empty() && chance(0.7)) append(list, at, 1);
        scene_.lists.push_back(std::move(list));
        family_.push_back(f);
      }
    }
  }

  // Other pages under the same indices: what a swapped image is.
  void swap_pages(std::vector<PageRun>& list) {
    const size_t from = static_cast<size_t>(random_.below(list.size()));
    const size_t to = from + static_cast<size_t>(random_.below(list.size() - from)) + 1;
    for (size_t r = from; r < to; ++r) {
      list[r].page = new_page();
      if (chance(0.2)) list[r].segment = static_cast<uint8_t>(between(0, scene_.segments - 1));
    }
  }

  void fill_arena() {
    Scene& s = scene_;
    const int64_t page_values = int64_t{s.kv_heads} * kPageKeys * s.head_dim;
    s.pages = next_page_ + between(0, 2);
    s.k.assign(s.pages * page_values, 0);
    s.v.assign(s.pages * page_values, 0);
    std::vector<uint32_t> order(static_cast<size_t>(s.pages));
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<uint32_t>(i);
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random_.below(static_cast<int64_t>(i))]);
    std::vector<int32_t> written(static_cast<size_t>(s.pages));
    for (std::vector<PageRun>& list : s.lists)
      for (PageRun& run : list) {
        run.page = order[run.page];
        written[run.page] = std::max(written[run.page], run.first + run.count);
      }
    const bool equal_keys = chance(0.08);  // ties everywhere
    const std::vector<float> same = random_.normals(s.head_dim);
    const float spread = 1.0f, v_mean = one_of({0.0f, 0.0f, 3.0f});
    for (int64_t page = 0; page < s.pages; ++page) {
      // Slots beside the runs: what another sequence left there, or never written.
      const int32_t rows = chance(0.5) ? written[page] : kPageKeys;
      const bool loud = chance(0.3);  // neighbours that would be seen
      for (int64_t row = 0; row < int64_t{s.kv_heads} * kPageKeys; ++row) {
        if (row % kPageKeys >= rows) continue;
        const bool beside = row % kPageKeys >= written[page];
        const float gain = beside && loud ? 1e4f : 1.0f;
        for (int32_t d = 0; d < s.head_dim; ++d) {
          const int64_t at = (page * s.kv_heads * kPageKeys + row) * s.head_dim + d;
          s.k[at] = float_to_bf16(gain * spread * (equal_keys ? same[d] : value()));
          s.v[at] = float_to_bf16(gain * (value() + v_mean));
        }
      }
    }
  }

  // Roughly normal; real sizes need many.
  float value() {
    const uint64_t bits = random_.bits();
    float sum = -2.0f;
    for (int i = 0; i < 4; ++i) sum += static_cast<float>(bits >> (16 * i) & 0xffff) * 0x1.0p-16f;
    return sum * 1.7320508f;
  }

  // ---- Queries ----

  // Scores of a scene are bounded, so that an emulated one takes about half a second.
  int32_t token_count(const std::vector<PageRun>& list) {
    if (options_.kernel == AttnKernel::kDecode || (!options_.kernel && chance(0.3))) return between(1, 3);
    int64_t keys = 1;
    for (const PageRun& run : list) keys += run.count;
    const int64_t scores = options_.scores > 0                     ? options_.scores
                           : real_                                 ? 500'000'000
                           : options_.kernel == AttnKernel::kWgmma ? 1'500'000
                                                                   : 400'000;
    const int64_t most = scores / (static_cast<int64_t>(scene_.lists.size()) * scene_.heads * keys);
    const int32_t tokens = real_         ? one_of({1, 17, 64, 100, 127, 128, 129, 500, 1000, 2048, 4096})
                           : chance(0.6) ? between(1, 24)
                                         : between(25, 160);
    return static_cast<int32_t>(std::clamp<int64_t>(most, 1, tokens));
  }

  void queries() {
    Scene& s = scene_;
    fill_arena();
    s.tokens = 0;
    int32_t tokens = 0;
    const bool any_low = chance(0.35), any_high = chance(0.85);
    for (size_t b = 0; b < s.lists.size(); ++b) {
      if (b > 0 && chance(0.15)) s.tokens += between(1, 5);  // tokens of no block
      if (b == 0 || family_[b] != family_[b - 1] || chance(0.2)) tokens = token_count(s.lists[b]);
      s.blocks.push_back({s.tokens, tokens, s.lists[b].data(), static_cast<int32_t>(s.lists[b].size())});
      s.tokens += tokens;
    }
    s.tokens += chance(0.2) ? between(1, 5) : 0;
    if (any_low) s.low.assign(s.tokens, 0);
    if (any_high) s.high.assign(s.tokens, 0);
    for (size_t b = 0; b < s.blocks.size(); ++b) limits(s.blocks[b], s.lists[b]);

    const int64_t width = int64_t{s.heads} * s.head_dim;
    s.q_stride = width + (chance(0.5) ? 0 : 8 * between(1, 2 * s.heads));
    s.out_stride = width + (chance(0.6) ? 0 : 8 * between(1, 5));
    s.q.assign(s.tokens * s.q_stride, kNaN);
    const float usual = one_of({1.0f, 1.0f, 3.0f});
    const bool huge = chance(0.12);
    for (int32_t t = 0; t < s.tokens; ++t) {
      // Dot products have the spread √D · |q|: scores of ±1e4 at three deviations.
      const float gain = huge && chance(0.5) ? 3e3f / (s.scale * std::sqrt(static_cast<float>(s.head_dim))) : usual;
      for (int64_t d = 0; d < width; ++d) s.q[t * s.q_stride + d] = float_to_bf16(gain * value());
    }
  }

  void limits(const QueryBlock& block, const std::vector<PageRun>& list) {
    Scene& s = scene_;
    constexpr int32_t kMost = std::numeric_limits<int32_t>::max();
    const int32_t first = list.empty() ? 0 : list.front().index;
    const int32_t end = list.empty() ? 0 : list.back().index + list.back().count;
    enum {
      kCausal,
      kBidirectional,
      kWindowed,
      kEverywhere
    } kind = one_of({kCausal, kCausal, kBidirectional, kWindowed, kEverywhere});
    const int32_t window = between(1, real_ ? 1000 : 150);
    for (int32_t i = 0; i < block.tokens; ++i) {
      // Causal: the block's tokens are the last keys of the list; with fewer keys, the first tokens see none.
      int32_t low = 0, high = end - block.tokens + i;
      if (kind == kBidirectional) high = kMost;
      if (kind == kWindowed) low = high - window + 1;
      if (kind == kEverywhere) {
        low = between(first - 10, end);
        high = between(low - 2, end + 10);
      }
      if (!s.low.empty()) s.low[block.token0 + i] = low;
      if (!s.high.empty()) s.high[block.token0 + i] = high;
    }
  }

  // ---- Interventions ----

  Edge random_edge() {
    Edge edge;
    if (chance(0.3)) return edge;
    edge.gamma = one_of({1.0f, 1.0f, 0.0f, 0.5f, static_cast<float>(random_.uniform() * 2.0), 1e-3f});
    edge.beta = one_of({0.0f, 0.0f, random_.normal(), 5.0f * random_.normal(), chance(0.2) ? -1e4f : 0.5f});
    edge.post = one_of({1.0f, 1.0f, 1.0f, 0.0f, 0.5f, 2.0f});
    if (chance(0.3)) edge.beta = chance(0.8) ? kBlocked : -std::numeric_limits<float>::max();
    return edge;
  }

  void programs() {
    Scene& s = scene_;
    if (chance(0.25)) return;
    const int32_t count = between(1, 4);
    for (int32_t p = 0; p < count; ++p) {
      Program program;
      const int32_t head_classes = between(1, 3);
      program.row_classes = between(1, 3);
      if (chance(0.75)) {
        if (head_classes > 1)
          for (int32_t h = 0; h < s.heads; ++h)
            program.head_class.push_back(static_cast<uint8_t>(between(0, head_classes - 1)));
        const bool gentle = chance(0.3);  // post and blocks rare, so that whole lists are read
        for (int32_t i = 0; i < head_classes * program.row_classes * s.segments; ++i)
          program.edges.push_back(gentle && chance(0.8) ? Edge{} : random_edge());
        if (chance(0.15))  // one row class sees nothing at all
          for (int32_t i = 0; i < s.segments; ++i) program.edges[i].beta = kBlocked;
      }
      if (chance(0.3))
        for (int32_t h = 0; h < s.heads; ++h) program.head_scale.push_back(one_of({1.0f, 0.0f, -0.5f, 2.0f}));
      if (chance(0.3)) program.head_add = random_.normals(int64_t{s.heads} * s.head_dim);
      s.programs.push_back(std::move(program));
    }
    if (count > 1 && chance(0.9))
      for (int32_t t = 0; t < s.tokens; ++t) s.token_program.push_back(0);
    const bool by_token = chance(0.4);
    for (const QueryBlock& block : s.blocks) {
      const int32_t own = between(0, count - 1);
      for (int32_t t = block.token0; t < block.token0 + block.tokens && !s.token_program.empty(); ++t)
        s.token_program[t] = static_cast<uint16_t>(by_token ? between(0, count - 1) : own);
    }
    if (chance(0.7))
      for (int32_t t = 0; t < s.tokens; ++t)
        s.token_class.push_back(static_cast<uint8_t>(
            between(0, s.programs[s.token_program.empty() ? 0 : s.token_program[t]].row_classes - 1)));
  }

  // ---- Read-outs and launches ----

  void readouts() {
    Scene& s = scene_;
    s.want_lse = chance(0.8);
    s.want_entropy = chance(0.7);
    s.want_mass = chance(0.7);
    s.top_k = chance(0.5) ? one_of({1, 3, 10, kMaxTop}) : 0;
    const bool probe = chance(0.5) && (!real_ || s.macs() < int64_t{40'000'000'000});
    s.want_key_mass = probe && chance(0.8);
    s.want_pattern = probe && (!s.want_key_mass || chance(0.5));
    if (probe || s.top_k > 0) s.want_lse = true;  // both read it
    s.capture_rows = s.tokens;
    if (chance(0.5)) {
      std::vector<int32_t> rows;
      for (int32_t t = 0; t < s.tokens; ++t) rows.push_back(t);
      for (size_t i = rows.size(); i > 1; --i) std::swap(rows[i - 1], rows[random_.below(static_cast<int64_t>(i))]);
      const double density = one_of({0.05, 0.5, 1.0});
      for (int32_t t = 0; t < s.tokens; ++t) s.capture.push_back(chance(density) ? rows[t] : -1);
    }
    for (int32_t b = 0; probe && b < static_cast<int32_t>(s.blocks.size()); ++b) {
      const QueryBlock& block = s.blocks[b];
      if (block.run_count == 0 || chance(0.2)) continue;
      const int32_t skip = between(0, block.tokens - 1);
      const int32_t tokens = between(1, std::min(block.tokens - skip, s.want_pattern && real_ ? 64 : 1 << 20));
      const int32_t first = block.runs[0].index;
      s.probes.push_back({b, block.token0 + skip, tokens, s.key_span - first});
      s.key_span += block.runs[block.run_count - 1].index + block.runs[block.run_count - 1].count - first;
    }
    // A pattern is a matrix after all.
    if (int64_t{s.capture_rows} * s.heads * s.key_span > int64_t{100'000'000}) s.want_pattern = false;
    if (!s.want_key_mass && !s.want_pattern) s.probes.clear();
    if (s.probes.empty()) s.want_key_mass = s.want_pattern = false;
  }

  void launches() {
    AttnPlanOptions& plan = scene_.plan;
    plan.kernel = options_.kernel;
    plan.wgmma = options_.wgmma;
    plan.multiprocessors = chance(0.5) ? options_.multiprocessors : 16;
    plan.split_runs = chance(0.4) ? between(1, 6) : 0;
    plan.cascade = chance(0.5);
    plan.cascade_runs = between(1, 8);
    plan.balance_batch = chance(0.3);
    plan.top_k = scene_.top_k > 0;
  }

  Random random_;
  const SceneOptions& options_;
  const bool real_;
  Scene scene_;
  uint32_t next_page_ = 0;
  std::vector<int32_t> family_;  // by list
};

}  // namespace

int32_t Scene::low_of(int32_t token) const { return low.empty() ? std::numeric_limits<int32_t>::min() : low[token]; }
int32_t Scene::high_of(int32_t token) const { return high.empty() ? std::numeric_limits<int32_t>::max() : high[token]; }

const Program* Scene::program_of(int32_t token) const {
  return programs.empty() ? nullptr : &programs[token_program.empty() ? 0 : token_program[token]];
}

Edge Scene::edge(int32_t token, int32_t head, int32_t segment) const {
  const Program* program = program_of(token);
  if (!program || program->edges.empty()) return {};
  const int32_t head_class = program->head_class.empty() ? 0 : program->head_class[head];
  const int32_t row_class = token_class.empty() ? 0 : token_class[token];
  Edge edge = program->edges[(int64_t{head_class} * program->row_classes + row_class) * segments + segment];
  edge.gamma = std::max(edge.gamma, kLeastGamma);
  return edge;
}

int64_t Scene::macs() const {
  int64_t total = 0;
  for (const QueryBlock& block : blocks) {
    int64_t keys = 0;
    for (int32_t r = 0; r < block.run_count; ++r) keys += block.runs[r].count;
    total += 2 * keys * block.tokens * heads * head_dim;
  }
  return total;
}

std::string Scene::name() const {
  int64_t most = 0;
  for (const QueryBlock& block : blocks) {
    int64_t keys = 0;
    for (int32_t r = 0; r < block.run_count; ++r) keys += block.runs[r].count;
    most = std::max(most, keys);
  }
  const auto text = [](int64_t n) { return std::to_string(n); };
  std::string out = "seed " + text(static_cast<int64_t>(seed)) + ": H=" + text(heads) + "/" + text(kv_heads) +
                    " D=" + text(head_dim) + ", " + text(static_cast<int64_t>(blocks.size())) + " blocks, " +
                    text(tokens) + " tokens, ≤" + text(most) + " keys, " + text(segments) + " segments";
  if (!programs.empty()) out += ", " + text(static_cast<int64_t>(programs.size())) + " programs";
  if (!low.empty()) out += ", windows";
  if (!capture.empty()) out += ", capture map";
  if (top_k > 0) out += ", top " + text(top_k);
  if (want_key_mass) out += ", key mass";
  if (want_pattern) out += ", pattern";
  if (plan.split_runs > 0) out += ", parts of " + text(plan.split_runs);
  if (plan.cascade) out += ", cascade";
  return out;
}

Scene random_scene(uint64_t seed, const SceneOptions& options) { return Maker(seed, options).make(); }

}  // namespace galvani::gpu::check
