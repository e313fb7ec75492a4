// The planner by brute force: on random batches, every key a row may see is read by exactly one item of that row, every
// partial state is written once and merged once, and nothing is read that no row of a tile can see.
#include "device/attn_plan.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <type_traits>

#include "core/status.h"
#include "core/testing.h"
#include "ops/softmax_constants.h"

namespace galvani::gpu {
namespace {

using testing::Random;

// A batch and everything its input points to.
struct Batch {
  AttnPlanInput in{};
  std::vector<std::vector<PageRun>> lists;
  std::vector<QueryBlock> blocks;
  std::vector<int32_t> low, high, capture;
  std::vector<uint16_t> token_program;
  std::vector<uint8_t> token_class;
  std::vector<std::vector<uint8_t>> head_class;
  std::vector<std::vector<Edge>> edges;
  std::vector<std::vector<float>> head_scale;
  std::vector<HookProgram> programs;

  void point() {
    for (size_t b = 0; b < blocks.size(); ++b) {
      blocks[b].runs = lists[b].data();
      blocks[b].run_count = static_cast<int32_t>(lists[b].size());
    }
    in.blocks = blocks.data();
    in.block_count = static_cast<int32_t>(blocks.size());
    const auto data = [](const auto& v) { return v.empty() ? nullptr : v.data(); };
    in.low = data(low);
    in.high = data(high);
    in.capture = data(capture);
    in.token_program = data(token_program);
    in.token_class = data(token_class);
    in.programs = data(programs);
    in.program_count = static_cast<int32_t>(programs.size());
  }

  bool watched(int32_t token) const { return in.readouts && (capture.empty() || capture[token] >= 0); }

  bool visible(int32_t token, int32_t head, const PageRun& run, int32_t index) const {
    if ((!low.empty() && index < low[token]) || (!high.empty() && index > high[token])) return false;
    if (programs.empty()) return true;
    const HookProgram& p = programs[token_program.empty() ? 0 : token_program[token]];
    if (p.head_scale && p.head_scale[head] == 0.0f && !watched(token)) return false;
    if (!p.edges) return true;
    const int32_t row_class = token_class.empty() ? 0 : token_class[token];
    const int32_t hc = p.head_class ? p.head_class[head] : 0;
    return !edge_blocks(p.edges[(hc * p.row_classes + row_class) * p.segments + run.segment]);
  }
};

void append(Random& random, std::vector<PageRun>& list, uint32_t& page, int32_t runs, int32_t segments) {
  int32_t index = list.empty() ? static_cast<int32_t>(random.below(50)) : list.back().index + list.back().count;
  for (int32_t r = 0; r < runs; ++r) {
    const int32_t first = random.below(4) ? 0 : static_cast<int32_t>(random.below(kPageKeys));
    const int32_t count =
        random.below(3) ? kPageKeys - first : 1 + static_cast<int32_t>(random.below(kPageKeys - first));
    if (random.below(10) == 0) index += 7;
    list.push_back({page++, index, static_cast<uint16_t>(count), static_cast<uint8_t>(first),
                    static_cast<uint8_t>(random.below(segments)), 0});
    index += count;
  }
}

void random_programs(Random& random, Batch& batch) {
  const int32_t count = static_cast<int32_t>(random.below(4));
  batch.head_class.resize(count);
  batch.edges.resize(count);
  batch.head_scale.resize(count);
  for (int32_t p = 0; p < count; ++p) {
    const int32_t head_classes = 1 + static_cast<int32_t>(random.below(2)),
                  row_classes = 1 + static_cast<int32_t>(random.below(3));
    for (int32_t h = 0; h < batch.in.heads; ++h) {
      batch.head_class[p].push_back(static_cast<uint8_t>(random.below(head_classes)));
      batch.head_scale[p].push_back(random.below(3) ? 1.0f : 0.0f);
    }
    const int64_t one_in = 1 + random.below(6);
    for (int32_t i = 0; i < head_classes * row_classes * batch.in.segments; ++i) {
      Edge edge;
      if (random.below(one_in) == 0) edge.beta = kBlocked;
      batch.edges[p].push_back(edge);
    }
    batch.programs.push_back(
        {random.below(3) ? batch.head_class[p].data() : nullptr, random.below(5) ? batch.edges[p].data() : nullptr,
         random.below(3) ? nullptr : batch.head_scale[p].data(), nullptr, row_classes, batch.in.segments});
  }
  if (count == 0) return;
  const bool mixed = random.below(2);
  for (const QueryBlock& block : batch.blocks) {
    batch.token_program.resize(batch.in.tokens);
    batch.token_class.resize(batch.in.tokens);
    const uint16_t own = static_cast<uint16_t>(random.below(count));
    for (int32_t t = block.token0; t < block.token0 + block.tokens; ++t) {
      batch.token_program[t] = mixed ? static_cast<uint16_t>(random.below(count)) : own;
      batch.token_class[t] = static_cast<uint8_t>(random.below(batch.programs[batch.token_program[t]].row_classes));
    }
  }
}

void random_batch(Random& random, Batch& batch) {
  AttnPlanInput& in = batch.in;
  in.kv_heads = 1 + static_cast<int32_t>(random.below(3));
  in.heads = in.kv_heads * (random.below(12) ? 1 + static_cast<int32_t>(random.below(8)) : 20);
  in.head_dim = random.below(2) ? 128 : 64;
  in.segments = 1 + static_cast<int32_t>(random.below(6));
  in.readouts = random.below(2);
  uint32_t page = 0;
  const int32_t count = 1 + static_cast<int32_t>(random.below(9));
  const int32_t decode = static_cast<int32_t>(random.below(3));
  for (int32_t b = 0; b < count; ++b) {
    std::vector<PageRun> list;
    if (b > 0 && random.below(3)) {  // shares a prefix with the block before
      const std::vector<PageRun>& other = batch.lists.back();
      list.assign(other.begin(), other.begin() + random.below(static_cast<int64_t>(other.size()) + 1));
      if (!list.empty() && random.below(4) == 0)  // the same page, called another segment
        list[static_cast<size_t>(random.below(static_cast<int64_t>(list.size())))].segment =
            static_cast<uint8_t>(random.below(in.segments));
    }
    append(random, list, page, static_cast<int32_t>(random.below(30)), in.segments);
    batch.lists.push_back(list);
    if (random.below(6) == 0) in.tokens += 2;
    const int32_t tokens = decode ? 1 + static_cast<int32_t>(random.below(2)) : static_cast<int32_t>(random.below(200));
    batch.blocks.push_back({in.tokens, tokens, nullptr, 0});
    in.tokens += tokens;
  }
  const bool lows = random.below(3) == 0, highs = random.below(5);
  if (lows) batch.low.resize(in.tokens);
  if (highs) batch.high.resize(in.tokens);
  for (int32_t b = 0; b < count; ++b) {
    const int32_t end = batch.lists[b].empty() ? 0 : batch.lists[b].back().index + batch.lists[b].back().count;
    const bool wild = random.below(4) == 0;
    const int32_t window = 1 + static_cast<int32_t>(random.below(400));
    for (int32_t i = 0; i < batch.blocks[b].tokens; ++i) {
      const int32_t high = wild ? static_cast<int32_t>(random.below(end + 20)) - 5 : end - batch.blocks[b].tokens + i;
      if (highs) batch.high[batch.blocks[b].token0 + i] = high;
      if (lows) batch.low[batch.blocks[b].token0 + i] = high - window;
    }
  }
  if (random.below(2))
    for (int32_t t = 0; t < in.tokens; ++t) batch.capture.push_back(random.below(2) ? t : -1);
  random_programs(random, batch);
  batch.point();
}

// What one row is given: the items that hold it, in list order.
struct Share {
  const AttnItem* item;
  int32_t row;  // inside the item
};

class Checker {
 public:
  Checker(const Batch& batch, const AttnPlan& plan, const std::string& name) : b_(batch), plan_(plan), name_(name) {}

  void run(bool top_k) {
    for (int kernel = 0; kernel < kAttnKernels; ++kernel) items(static_cast<AttnKernel>(kernel));
    slots();
    for (const QueryBlock& block : b_.blocks)
      for (int32_t t = block.token0; t < block.token0 + block.tokens; ++t)
        for (int32_t h = 0; h < b_.in.heads; ++h) row(block, t, h);
    expect(combined_ == plan_.rows.size(), "rows to combine that are no rows");
    if (top_k) top();
  }

 private:
  // `what` is a string or makes one, when it is needed: there are millions.
  template <class What>
  void expect(bool ok, const What& what) {
    if (ok)
      ++testing::tally().passed;
    else if constexpr (std::is_invocable_v<What>)
      EXPECT(false, name_ + ": " + what());
    else
      EXPECT(false, name_ + ": " + what);
  }

  void items(AttnKernel kernel) {
    const std::vector<AttnItem>& items = plan_.of(kernel);
    const int32_t ratio = b_.in.heads / b_.in.kv_heads;
    for (size_t i = 0; i < items.size(); ++i) {
      const AttnItem& item = items[i];
      const std::string at = std::string(attn_kernel_name(kernel)) + " item " + std::to_string(i) + " ";
      expect(i == 0 || item.run_count <= items[i - 1].run_count, at + "is longer than the one before");
      expect(item.tokens > 0 && item.heads > 0 && item.tokens * item.heads <= attn_kernel_rows(kernel), at + "rows");
      expect(item.head0 / ratio == item.kv_head && (item.head0 + item.heads - 1) / ratio == item.kv_head, at + "heads");
      expect(item.run_count > 0 && item.run_begin >= 0 &&
                 item.run_begin + item.run_count <= static_cast<int32_t>(plan_.runs.size()),
             at + "runs");
      int32_t low = std::numeric_limits<int32_t>::min(), high = std::numeric_limits<int32_t>::max();
      for (int32_t t = item.token0; t < item.token0 + item.tokens; ++t) {
        if (b_.in.low) low = std::max(low, b_.low[t]);
        if (b_.in.high) high = std::min(high, b_.high[t]);
      }
      expect(item.low_max == low && item.high_min == high, at + "limits");
      bool useful = true;
      for (int32_t r = 0; r < item.run_count; ++r)
        useful = useful && seen_by_some(item, plan_.runs[item.run_begin + r]);
      expect(useful, at + "has a run that none of its rows sees");
      for (int32_t r = 0; r < item.tokens * item.heads; ++r)
        shares_[{item.token0 + r / item.heads, item.head0 + r % item.heads}].push_back({&item, r});
    }
  }

  bool seen_by_some(const AttnItem& item, const PageRun& run) const {
    for (int32_t t = item.token0; t < item.token0 + item.tokens; ++t)
      for (int32_t h = item.head0; h < item.head0 + item.heads; ++h)
        for (int32_t j = 0; j < run.count; ++j)
          if (b_.visible(t, h, run, run.index + j)) return true;
    return false;
  }

  void slots() {
    std::vector<int32_t> written(static_cast<size_t>(plan_.slots)), merged(written.size());
    for (const std::vector<AttnItem>& items : plan_.items)
      for (const AttnItem& item : items)
        for (int32_t r = 0; item.slot >= 0 && r < item.tokens * item.heads; ++r) ++written.at(item.slot + r);
    for (const AttnPart& part : plan_.parts) ++merged.at(part.slot);
    expect(std::all_of(written.begin(), written.end(), [](int32_t n) { return n == 1; }), "slots are written once");
    expect(std::all_of(merged.begin(), merged.end(), [](int32_t n) { return n == 1; }), "slots are merged once");
    for (const CombineRow& row : plan_.rows) by_row_[{row.token, row.head}].push_back(&row);
  }

  void row(const QueryBlock& block, int32_t token, int32_t head) {
    const auto at = [&] { return "token " + std::to_string(token) + " head " + std::to_string(head) + ": "; };
    std::vector<Share>& shares = shares_[{token, head}];
    std::sort(shares.begin(), shares.end(),
              [](const Share& a, const Share& b) { return a.item->run_order < b.item->run_order; });
    std::vector<int32_t> read(static_cast<size_t>(block.run_count)), columns(read.size());
    for (const Share& share : shares)
      for (int32_t r = 0, from = 0; r < share.item->run_count; ++r) {
        const PageRun& run = plan_.runs[share.item->run_begin + r];
        while (from < block.run_count && std::memcmp(&block.runs[from], &run, sizeof run) != 0) ++from;
        if (from == block.run_count)
          return expect(false, at() + "reads a run that is not in its list, or not in order");
        ++read[from++];
        ++columns.at(share.item->run_order + r);
      }
    for (int32_t r = 0; r < block.run_count; ++r) {
      bool needed = false;
      for (int32_t j = 0; j < block.runs[r].count; ++j)
        needed = needed || b_.visible(token, head, block.runs[r], block.runs[r].index + j);
      expect(read[r] == 1 || (read[r] == 0 && !needed),
             [&] { return at() + "run " + std::to_string(r) + " is read " + std::to_string(read[r]) + " times"; });
      expect(columns[r] <= 1, [&] { return at() + "column of run_max written twice"; });
    }
    const std::vector<const CombineRow*>& rows = by_row_[{token, head}];
    const bool alone = shares.size() == 1 && shares[0].item->slot < 0;
    expect(rows.size() == (alone ? 0 : 1),
           [&] { return at() + "is finished " + std::to_string(rows.size() + alone) + " times"; });
    combined_ += rows.size();
    if (rows.size() == 1) parts(*rows[0], plan_.parts, shares);
  }

  void parts(const CombineRow& row, const std::vector<AttnPart>& parts, const std::vector<Share>& shares) {
    bool same = row.part_count == static_cast<int32_t>(shares.size());
    for (int32_t n = 0; same && n < row.part_count; ++n) {
      const AttnPart& part = parts.at(row.part_begin + n);
      const AttnItem& item = *shares[n].item;
      same = part.slot == (item.slot < 0 ? -1 : item.slot + shares[n].row) && part.run_begin == item.run_begin &&
             part.run_count == item.run_count && part.run_order == item.run_order;
    }
    expect(same, [&] {
      return "token " + std::to_string(row.token) + " head " + std::to_string(row.head) +
             ": its parts are not its items, in list order";
    });
  }

  void top() {
    std::map<std::pair<int32_t, int32_t>, int32_t> seen;
    for (const CombineRow& row : plan_.top_rows) {
      ++seen[{row.token, row.head}];
      parts(row, plan_.top_parts, shares_[{row.token, row.head}]);
    }
    for (const QueryBlock& block : b_.blocks)
      for (int32_t t = block.token0; t < block.token0 + block.tokens; ++t)
        for (int32_t h = 0; h < b_.in.heads; ++h)
          expect((seen[{t, h}] == 1) == (b_.capture.empty() || b_.capture[t] >= 0), "top-k rows are the captured ones");
  }

  const Batch& b_;
  const AttnPlan& plan_;
  const std::string name_;
  std::map<std::pair<int32_t, int32_t>, std::vector<Share>> shares_;
  std::map<std::pair<int32_t, int32_t>, std::vector<const CombineRow*>> by_row_;
  size_t combined_ = 0;
};

// An item as its block sees it, whatever else is planned: token, head, rows, which runs, whether it is final.
using Sight = std::vector<int64_t>;
std::vector<Sight> sights(const AttnPlan& plan, const QueryBlock& block) {
  std::vector<Sight> out;
  for (int kernel = 0; kernel < kAttnKernels; ++kernel)
    for (const AttnItem& item : plan.items[kernel]) {
      if (item.token0 < block.token0 || item.token0 >= block.token0 + block.tokens) continue;
      Sight sight{kernel, item.token0, item.tokens, item.head0, item.heads, item.run_order, item.slot < 0};
      for (int32_t r = 0; r < item.run_count; ++r) sight.push_back(plan.runs[item.run_begin + r].index);
      out.push_back(sight);
    }
  std::sort(out.begin(), out.end());
  return out;
}

void random_batches() {
  int64_t merged = 0, shared = 0, empty = 0, holes = 0;
  for (uint64_t seed = 0; seed < 300; ++seed) {
    Random random(seed);
    Batch batch;
    random_batch(random, batch);
    AttnPlanOptions options;
    options.multiprocessors = random.below(2) ? 4 : 132;
    options.wgmma = random.below(2);
    options.split_runs = random.below(3) ? 0 : 1 + static_cast<int32_t>(random.below(8));
    options.cascade = random.below(2);
    options.cascade_runs = 1 + static_cast<int32_t>(random.below(6));
    options.balance_batch = random.below(3) == 0;
    options.top_k = random.below(2);
    if (random.below(3) == 0) options.kernel = static_cast<AttnKernel>(random.below(kAttnKernels));
    const std::string name = "seed " + std::to_string(seed);
    const AttnPlan plan = plan_attention(batch.in, options);
    Checker(batch, plan, name).run(options.top_k);

    const AttnPlan again = plan_attention(batch.in, options);
    bool same = plan.slots == again.slots && plan.runs.size() == again.runs.size();
    for (int k = 0; same && k < kAttnKernels; ++k)
      same = plan.items[k].size() == again.items[k].size() &&
             std::equal(plan.items[k].begin(), plan.items[k].end(), again.items[k].begin(),
                        [](const AttnItem& a, const AttnItem& b) { return std::memcmp(&a, &b, sizeof a) == 0; });
    EXPECT(same, name + ": two plans of one input differ");

    if (!options.cascade && !options.balance_batch)
      for (const QueryBlock& block : batch.blocks) {
        AttnPlanInput alone = batch.in;
        alone.blocks = &block;
        alone.block_count = 1;
        EXPECT(sights(plan_attention(alone, options), block) == sights(plan, block),
               name + ": a block's items depend on the rest of the batch");
      }

    merged += static_cast<int64_t>(plan.rows.size());
    for (const CombineRow& row : plan.rows) empty += row.part_count == 0;
    for (const std::vector<AttnItem>& items : plan.items)
      for (const AttnItem& item : items) {
        int32_t owners = 0;
        for (const QueryBlock& block : batch.blocks)
          owners += block.token0 < item.token0 + item.tokens && item.token0 < block.token0 + block.tokens;
        shared += owners > 1;
        const int32_t last = item.run_begin + item.run_count - 1;
        holes += plan.runs[last].page - plan.runs[item.run_begin].page != static_cast<uint32_t>(item.run_count - 1);
      }
  }
  EXPECT(merged > 1000 && shared > 100 && empty > 100 && holes > 100, "the batches were dull");
}

// ---- Single decisions ----

Batch plain(int32_t blocks, int32_t tokens, int32_t shared_runs, int32_t own_runs) {
  Batch batch;
  batch.in = {28, 4, 128, blocks * tokens, 1, nullptr, 0};
  uint32_t page = 1000;
  for (int32_t b = 0; b < blocks; ++b) {
    std::vector<PageRun> list;
    for (int32_t r = 0; r < shared_runs + own_runs; ++r)
      list.push_back({r < shared_runs ? static_cast<uint32_t>(r) : page++, r * kPageKeys, kPageKeys, 0, 0, 0});
    batch.lists.push_back(list);
    batch.blocks.push_back({b * tokens, tokens, nullptr, 0});
    for (int32_t i = 0; i < tokens; ++i) batch.high.push_back((shared_runs + own_runs) * kPageKeys - tokens + i);
  }
  batch.point();
  return batch;
}

int64_t runs_read(const AttnPlan& plan) {
  int64_t sum = 0;
  for (const std::vector<AttnItem>& items : plan.items)
    for (const AttnItem& item : items) sum += item.run_count;
  return sum;
}

void kernels_and_tiles() {
  AttnPlanOptions hopper;
  hopper.wgmma = true;
  const auto only = [](const AttnPlan& plan, AttnKernel kernel) {
    for (int k = 0; k < kAttnKernels; ++k)
      if (plan.items[k].empty() != (k != static_cast<int>(kernel))) return false;
    return true;
  };
  Batch prompt = plain(1, 2048, 0, 32);
  AttnPlan plan = plan_attention(prompt.in, hopper);
  EXPECT(only(plan, AttnKernel::kWgmma), "a long prompt on compute capability 9.0");
  EXPECT(plan.of(AttnKernel::kWgmma).size() == 16 * 28 && plan.slots == 0 && plan.rows.empty(), "its tiles are final");
  EXPECT(plan.runs.size() == 32, "its tiles share one list");
  EXPECT(plan.of(AttnKernel::kWgmma)[0].run_count == 32 && plan.of(AttnKernel::kWgmma).back().run_count == 2,
         "causal tiles end at the diagonal");
  plan = plan_attention(prompt.in, {});
  EXPECT(only(plan, AttnKernel::kMma), "elsewhere");
  prompt.in.head_dim = 80;
  EXPECT(only(plan_attention(prompt.in, hopper), AttnKernel::kMma), "another head dimension");

  const Batch suffix = plain(1, 18, 0, 3);
  plan = plan_attention(suffix.in, hopper);
  EXPECT(only(plan, AttnKernel::kMma) && plan.of(AttnKernel::kMma)[0].heads == 7 &&
             plan.of(AttnKernel::kMma)[0].tokens == 9 && plan.of(AttnKernel::kMma).size() == 8,
         "a short suffix packs the heads of a group");
  const Batch step = plain(1, 2, 0, 256);
  plan = plan_attention(step.in, hopper);
  EXPECT(only(plan, AttnKernel::kDecode), "14 rows are attn_decode's");
  EXPECT(plan.of(AttnKernel::kDecode).size() == 4 * 64 && plan.rows.size() == 56 && plan.parts.size() == 56 * 64,
         "16k keys are cut for 132 multiprocessors");
  const Batch much = plain(1, 1, 0, 2048);
  EXPECT(plan_attention(much.in, hopper).parts.size() == 28 * 64, "no row has more than 64 parts");
}

void cascade() {
  AttnPlanOptions options;
  const Batch sweep = plain(28, 1, 256, 2);
  const int64_t apart = runs_read(plan_attention(sweep.in, options));
  EXPECT(apart == int64_t{28} * 4 * 258, "unshared, every variant reads its whole list");
  options.cascade = true;
  const AttnPlan plan = plan_attention(sweep.in, options);
  EXPECT(runs_read(plan) == 4 * (4 * 256 + 28 * 2), "28 · 7 rows are 4 tiles of 9 tokens, own keys are read apart");
  Checker(sweep, plan, "sweep").run(false);
  options.cascade_runs = 257;
  EXPECT(runs_read(plan_attention(sweep.in, options)) == apart, "a short prefix is not worth it");
}

void refusals() {
  const auto refused = [](const std::function<void(Batch&)>& spoil) {
    Batch batch = plain(2, 3, 1, 2);
    batch.point();
    spoil(batch);
    try {
      plan_attention(batch.in, {});
    } catch (const Error& error) {
      return error.code() == Code::kBadArgument;
    }
    return false;
  };
  EXPECT(!refused([](Batch&) {}), "a good batch");
  EXPECT(refused([](Batch& b) { b.in.heads = 5; }), "heads");
  EXPECT(refused([](Batch& b) { b.in.segments = 17; }), "segments");
  EXPECT(refused([](Batch& b) { b.blocks[1].token0 = 2; }), "blocks that overlap");
  EXPECT(refused([](Batch& b) { b.blocks[1].tokens = 4; }), "tokens that do not exist");
  EXPECT(refused([](Batch& b) { b.lists[0][1].count = 0; }), "an empty run");
  EXPECT(refused([](Batch& b) { b.lists[0][1].first = 1; }), "a run beyond its page");
  EXPECT(refused([](Batch& b) { b.lists[1][0].segment = 1; }), "a segment that does not exist");
  EXPECT(refused([](Batch& b) { b.lists[1][0].index = std::numeric_limits<int32_t>::max(); }),
         "an index that overflows");
  const Edge good{0.0f, -std::numeric_limits<float>::max(), 0.5f, 0.0f};
  const std::vector<Edge> edges = device_edges(&good, 1);
  EXPECT(edges[0].gamma == kLeastGamma && edges[0].beta == kBlocked && edges[0].post == 0.5f, "edges for the device");
  for (const Edge bad : {Edge{-1.0f, 0.0f, 1.0f, 0.0f}, Edge{1.0f, std::nanf(""), 1.0f, 0.0f},
                         Edge{1.0f, 0.0f, -1.0f, 0.0f}, Edge{std::nanf(""), 0.0f, 1.0f, 0.0f}}) {
    bool thrown = false;
    try {
      device_edges(&bad, 1);
    } catch (const Error&) {
      thrown = true;
    }
    EXPECT(thrown, "a bad edge");
  }
}

}  // namespace
}  // namespace galvani::gpu

int main() {
  galvani::gpu::random_batches();
  galvani::gpu::kernels_and_tiles();
  galvani::gpu::cascade();
  galvani::gpu::refusals();
  return galvani::testing::report();
}
