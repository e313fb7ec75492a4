#include "device/attn_plan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string>

#include "core/status.h"
#include "ops/softmax_constants.h"

namespace galvani::gpu {
namespace {

constexpr int32_t kLeast = std::numeric_limits<int32_t>::min(), kMost = std::numeric_limits<int32_t>::max();
constexpr int32_t kMostParts = 64;  // of a row; attn_combine reads them one after the other
constexpr int32_t kWaves = 2;       // items per multiprocessor that keep it busy
// Shortest parts. Estimates, not measured on a card yet: below the first, warps of attn_decode idle; below the second,
// the partial states of a tile (528 bytes a row, written and read) weigh against its keys (32 KiB a run).
constexpr int32_t kLeastDecodeRuns = 4, kLeastTileRuns = 16;

int32_t ceil_div(int32_t a, int32_t b) { return (a + b - 1) / b; }

[[noreturn]] void refuse(const std::string& what) { throw Error(Code::kBadArgument, "attention plan: " + what); }

bool same(const PageRun& a, const PageRun& b) {
  return a.page == b.page && a.index == b.index && a.count == b.count && a.first == b.first && a.segment == b.segment;
}

void check(const AttnPlanInput& in) {
  if (in.heads <= 0 || in.kv_heads <= 0 || in.heads % in.kv_heads != 0 || in.segments < 1 || in.segments > kMaxSegments)
    refuse(std::to_string(in.heads) + " heads, " + std::to_string(in.kv_heads) + " KV heads, " +
           std::to_string(in.segments) + " segments");
  int32_t next = 0;
  for (int32_t b = 0; b < in.block_count; ++b) {
    const QueryBlock& block = in.blocks[b];
    const std::string name = "block " + std::to_string(b) + ": ";
    if (block.token0 < next || block.tokens < 0 || block.tokens > in.tokens - block.token0)
      refuse(name + "tokens " + std::to_string(block.token0) + " + " + std::to_string(block.tokens) + " of " +
             std::to_string(in.tokens) + " (sorted, disjoint)");
    next = block.token0 + block.tokens;
    for (int32_t r = 0; r < block.run_count; ++r) {
      const PageRun& run = block.runs[r];
      if (run.count < 1 || run.first + run.count > kPageKeys || run.segment >= in.segments ||
          run.index > kMost - run.count)
        refuse(name + "run " + std::to_string(r) + " has slots " + std::to_string(run.first) + " + " +
               std::to_string(run.count) + ", segment " + std::to_string(run.segment) + ", index " +
               std::to_string(run.index));
    }
    for (int32_t t = block.token0; t < next; ++t) {
      const int32_t program = in.token_program ? in.token_program[t] : 0;
      if (in.programs && program >= in.program_count)
        refuse("token " + std::to_string(t) + " has program " + std::to_string(program) + " of " +
               std::to_string(in.program_count));
      if (in.programs && in.programs[program].edges &&
          (in.token_class ? in.token_class[t] : 0) >= in.programs[program].row_classes)
        refuse("token " + std::to_string(t) + " has a row class its program lacks");
    }
  }
}

// Rows per tile of one kernel.
struct Tiling {
  AttnKernel kernel;
  int32_t heads, tokens;  // of one item

  int32_t tiles(int32_t all_tokens, int32_t ratio) const {
    return ceil_div(all_tokens, tokens) * ceil_div(ratio, heads);
  }
};

// All heads of a KV head in a tile, or as many as fit in equal shares.
Tiling packed(AttnKernel kernel, int32_t ratio) {
  const int32_t rows = attn_kernel_rows(kernel), heads = ceil_div(ratio, ceil_div(ratio, rows));
  return {kernel, heads, rows / heads};
}

Tiling choose_tiling(const AttnPlanInput& in, const AttnPlanOptions& options, int32_t tokens) {
  const int32_t ratio = in.heads / in.kv_heads;
  const bool fits_decode = int64_t{tokens} * ratio <= kDecodeRows;
  const bool fits_wgmma = options.wgmma && in.head_dim == 128 && tokens >= kWgmmaRows / 2;
  const AttnKernel kernel = options.kernel.value_or(fits_decode  ? AttnKernel::kDecode
                                                    : fits_wgmma ? AttnKernel::kWgmma
                                                                 : AttnKernel::kMma);
  if (kernel == AttnKernel::kDecode) return packed(kernel, ratio);
  const Tiling unpacked{kernel, 1, attn_kernel_rows(kernel)};
  if (kernel == AttnKernel::kWgmma) return unpacked;
  const Tiling tight = packed(kernel, ratio);
  return tight.tiles(tokens, ratio) <= unpacked.tiles(tokens, ratio) ? tight : unpacked;
}

// Neighbouring blocks against runs [begin, end) that are the same in each of their lists.
struct Piece {
  int32_t block0, blocks, token0, tokens, begin, end;
  Tiling tiling;
  int32_t split_runs = 0;
};

class Planner {
 public:
  Planner(const AttnPlanInput& in, const AttnPlanOptions& options)
      : in_(in), options_(options), ratio_(in.heads / in.kv_heads) {
    find_blocked();
  }

  AttnPlan run() {
    for (int32_t b = 0; b < in_.block_count; ++b)
      plan_.run_max_stride = std::max(plan_.run_max_stride, in_.blocks[b].run_count);
    group();
    size_parts();
    for (const Piece& piece : pieces_) emit(piece);
    assign_slots();
    for (std::vector<AttnItem>& items : plan_.items)
      std::stable_sort(items.begin(), items.end(),
                       [](const AttnItem& a, const AttnItem& b) { return a.run_count > b.run_count; });
    return std::move(plan_);
  }

 private:
  int32_t low(int32_t token) const { return in_.low ? in_.low[token] : kLeast; }
  int32_t high(int32_t token) const { return in_.high ? in_.high[token] : kMost; }

  // ---- What a row may see ----

  // blocked_[program][head][row class]: bit s: segment s is removed.
  void find_blocked() {
    for (int32_t p = 0; in_.programs && p < in_.program_count; ++p) {
      const HookProgram& program = in_.programs[p];
      const int32_t classes = program.edges ? program.row_classes : 0;
      plan_.has_edges = plan_.has_edges || program.edges;
      std::vector<uint32_t> masks(static_cast<size_t>(in_.heads) * classes);
      for (int32_t h = 0; h < in_.heads; ++h)
        for (int32_t c = 0; c < classes; ++c)
          for (int32_t s = 0; s < program.segments; ++s) {
            const int64_t head_class = program.head_class ? program.head_class[h] : 0;
            if (edge_blocks(program.edges[(head_class * classes + c) * program.segments + s]))
              masks[static_cast<size_t>(h) * classes + c] |= 1u << s;
          }
      blocked_.push_back(std::move(masks));
    }
  }

  // Segments that the row cannot see, or all of them when nobody looks at its result.
  uint32_t blocked(int32_t token, int32_t head) const {
    if (!in_.programs) return 0;
    const int32_t p = in_.token_program ? in_.token_program[token] : 0;
    const HookProgram& program = in_.programs[p];
    const bool watched = in_.readouts && (!in_.capture || in_.capture[token] >= 0);
    if (!watched && program.head_scale && program.head_scale[head] == 0.0f) return ~0u;
    if (!program.edges) return 0;
    const int32_t row_class = in_.token_class ? in_.token_class[token] : 0;
    return blocked_[p][static_cast<size_t>(head) * program.row_classes + row_class];
  }

  // What the rows of a tile see: keys of unblocked segments with an index inside one of the spans.
  struct View {
    uint32_t blocked;
    int32_t low, high;
  };
  void look(int32_t token0, int32_t tokens, int32_t head0, int32_t heads) {
    views_.clear();
    for (int32_t t = token0; t < token0 + tokens; ++t) {
      const int32_t from = low(t), to = high(t);
      if (from > to) continue;
      uint32_t mask = ~0u;
      for (int32_t h = head0; h < head0 + heads; ++h) mask &= blocked(t, h);
      if (mask == ~0u) continue;
      bool merged = false;
      for (View& view : views_) {
        if (view.blocked != mask || int64_t{from} > int64_t{view.high} + 1 || int64_t{to} < int64_t{view.low} - 1)
          continue;
        view.low = std::min(view.low, from);
        view.high = std::max(view.high, to);
        merged = true;
        break;
      }
      if (!merged) views_.push_back({mask, from, to});
    }
  }
  bool sees(const PageRun& run) const {
    for (const View& view : views_)
      if (!(view.blocked >> run.segment & 1) && run.index <= view.high && run.index + run.count - 1 >= view.low)
        return true;
    return false;
  }

  // ---- Shared prefixes ----

  // Blocks that fill no tile of attn_mma alone gain by being read with others.
  bool joins(const QueryBlock& block) const {
    return options_.cascade && block.tokens > 0 && int64_t{block.tokens} * ratio_ < kMmaRows;
  }

  void group() {
    for (int32_t first = 0; first < in_.block_count;) {
      int32_t last = first + 1;
      if (joins(in_.blocks[first]))
        while (last < in_.block_count && joins(in_.blocks[last]) &&
               in_.blocks[last].token0 == in_.blocks[last - 1].token0 + in_.blocks[last - 1].tokens)
          ++last;
      share(first, last, 0, 0);
      first = last;
    }
  }

  // Blocks [first, last) agree on the runs before `agree`; those before `done` are already dealt with.
  void share(int32_t first, int32_t last, int32_t done, int32_t agree) {
    const QueryBlock& lead = in_.blocks[first];
    if (last - first == 1) {
      if (done < lead.run_count) add_piece(first, last, done, lead.run_count);
      return;
    }
    const auto agrees = [&](const QueryBlock& block) {
      return agree < block.run_count && agree < lead.run_count && same(block.runs[agree], lead.runs[agree]);
    };
    while (std::all_of(in_.blocks + first, in_.blocks + last, agrees)) ++agree;
    if (agree - done >= options_.cascade_runs) {
      add_piece(first, last, done, agree);
      done = agree;
    }
    for (int32_t from = first; from < last;) {  // neighbours that agree on the next run stay together
      const QueryBlock& block = in_.blocks[from];
      int32_t to = from + 1;
      while (to < last && agree < block.run_count && agree < in_.blocks[to].run_count &&
             same(block.runs[agree], in_.blocks[to].runs[agree]))
        ++to;
      share(from, to, done, agree);
      from = to;
    }
  }

  void add_piece(int32_t first, int32_t last, int32_t begin, int32_t end) {
    const int32_t token0 = in_.blocks[first].token0;
    const int32_t tokens = in_.blocks[last - 1].token0 + in_.blocks[last - 1].tokens - token0;
    if (tokens == 0) return;
    pieces_.push_back({first, last - first, token0, tokens, begin, end, choose_tiling(in_, options_, tokens)});
  }

  // ---- Parts ----

  int32_t visible_runs(const Piece& piece) {
    int32_t from = kMost, to = kLeast, runs = 0;
    for (int32_t t = piece.token0; t < piece.token0 + piece.tokens; ++t) {
      from = std::min(from, low(t));
      to = std::max(to, high(t));
    }
    for (int32_t r = piece.begin; r < piece.end; ++r) {
      const PageRun& run = in_.blocks[piece.block0].runs[r];
      runs += run.index <= to && run.index + run.count - 1 >= from;
    }
    return runs;
  }

  void size_parts() {
    const int32_t wanted = kWaves * options_.multiprocessors;
    int64_t work = 0;
    std::vector<int32_t> runs;
    for (const Piece& piece : pieces_) {
      runs.push_back(visible_runs(piece));
      work += int64_t{piece.tiling.tiles(piece.tokens, ratio_)} * in_.kv_heads * runs.back();
    }
    const int32_t share = static_cast<int32_t>((work + wanted - 1) / wanted);
    for (size_t i = 0; i < pieces_.size(); ++i) {
      Piece& piece = pieces_[i];
      const int32_t alone = std::max(1, wanted / (piece.tiling.tiles(piece.tokens, ratio_) * in_.kv_heads));
      const int32_t least = piece.tiling.kernel == AttnKernel::kDecode ? kLeastDecodeRuns : kLeastTileRuns;
      piece.split_runs = options_.split_runs > 0
                             ? options_.split_runs
                             : std::max({least, ceil_div(runs[i], kMostParts),
                                         options_.balance_batch ? share : ceil_div(runs[i], alone)});
    }
  }

  // ---- Items ----

  struct Emitted {
    AttnKernel kernel;
    AttnItem item;
  };

  void emit(const Piece& piece) {
    store_list(piece);
    const Tiling& tiling = piece.tiling;
    for (int32_t t = 0; t < piece.tokens; t += tiling.tokens)
      for (int32_t head = 0; head < in_.heads;) {
        const int32_t group_end = (head / ratio_ + 1) * ratio_;
        AttnItem item{};
        item.token0 = piece.token0 + t;
        item.tokens = std::min(tiling.tokens, piece.tokens - t);
        item.head0 = head;
        item.heads = std::min(tiling.heads, group_end - head);
        item.kv_head = head / ratio_;
        head += item.heads;
        item.low_max = kLeast;
        item.high_min = kMost;
        for (int32_t i = item.token0; i < item.token0 + item.tokens; ++i) {
          item.low_max = std::max(item.low_max, low(i));
          item.high_min = std::min(item.high_min, high(i));
        }
        look(item.token0, item.tokens, item.head0, item.heads);
        for (int32_t begin = piece.begin; begin < piece.end; begin += piece.split_runs)
          emit_part(piece, tiling.kernel, item, begin, std::min(piece.end, begin + piece.split_runs));
      }
  }

  void emit_part(const Piece& piece, AttnKernel kernel, AttnItem item, int32_t begin, int32_t end) {
    const PageRun* list = in_.blocks[piece.block0].runs;
    kept_.clear();
    for (int32_t r = begin; r < end; ++r)
      if (sees(list[r])) kept_.push_back(r);
    if (kept_.empty()) return;
    item.run_order = kept_.front();
    item.run_count = static_cast<int32_t>(kept_.size());
    if (kept_.back() - kept_.front() + 1 == item.run_count) {
      item.run_begin = list_begin_ + kept_.front() - piece.begin;
    } else {  // a list with holes; the tiles of other heads mostly want the same
      const auto [at, inserted] = holed_.try_emplace(kept_, static_cast<int32_t>(plan_.runs.size()));
      if (inserted)
        for (const int32_t r : kept_) plan_.runs.push_back(list[r]);
      item.run_begin = at->second;
    }
    emitted_.push_back({kernel, item});
  }

  void store_list(const Piece& piece) {
    holed_.clear();
    list_begin_ = static_cast<int32_t>(plan_.runs.size());
    const PageRun* list = in_.blocks[piece.block0].runs;
    plan_.runs.insert(plan_.runs.end(), list + piece.begin, list + piece.end);
  }

  // ---- Who finishes which row ----

  template <class Visit>
  void each_row(const AttnItem& item, Visit visit) const {
    for (int32_t t = 0, i = 0; t < item.tokens; ++t) {
      const size_t row = static_cast<size_t>(item.token0 + t) * in_.heads + item.head0;
      for (int32_t h = 0; h < item.heads; ++h) visit(row + h, i++);
    }
  }

  void assign_slots() {
    std::vector<int32_t> count(static_cast<size_t>(in_.tokens) * in_.heads);
    for (const Emitted& e : emitted_) each_row(e.item, [&](size_t row, int32_t) { ++count[row]; });
    std::vector<uint8_t> merged(count.size());
    for (Emitted& e : emitted_) {
      bool alone = true;
      each_row(e.item, [&](size_t row, int32_t) { alone = alone && count[row] == 1; });
      e.item.slot = alone ? -1 : plan_.slots;
      if (alone) continue;
      if (int64_t{plan_.slots} + e.item.tokens * e.item.heads > kMost) refuse("too many partial states");
      plan_.slots += e.item.tokens * e.item.heads;
      each_row(e.item, [&](size_t row, int32_t) { merged[row] = 1; });
    }
    const auto combine = [&](int32_t, size_t row) { return merged[row] || count[row] == 0; };
    const auto refine = [&](int32_t token, size_t) { return !in_.capture || in_.capture[token] >= 0; };
    list_parts(count, combine, plan_.rows, plan_.parts);
    if (options_.top_k) list_parts(count, refine, plan_.top_rows, plan_.top_parts);
    for (const Emitted& e : emitted_) plan_.items[static_cast<int>(e.kernel)].push_back(e.item);
  }

  // The parts of the rows that `wants` picks. Items were emitted in list order for each row.
  template <class Wants>
  void list_parts(const std::vector<int32_t>& count, Wants wants, std::vector<CombineRow>& rows,
                  std::vector<AttnPart>& parts) const {
    std::vector<int32_t> next(count.size(), -1);
    int32_t total = 0;
    for (int32_t b = 0; b < in_.block_count; ++b)
      for (int32_t t = in_.blocks[b].token0; t < in_.blocks[b].token0 + in_.blocks[b].tokens; ++t)
        for (int32_t h = 0; h < in_.heads; ++h) {
          const size_t row = static_cast<size_t>(t) * in_.heads + h;
          if (!wants(t, row)) continue;
          rows.push_back({t, h, total, count[row]});
          next[row] = total;
          total += count[row];
        }
    parts.resize(static_cast<size_t>(total));
    for (const Emitted& e : emitted_)
      each_row(e.item, [&](size_t row, int32_t i) {
        if (next[row] < 0) return;
        parts[static_cast<size_t>(next[row]++)] = {e.item.slot < 0 ? -1 : e.item.slot + i, e.item.run_begin,
                                                   e.item.run_count, e.item.run_order};
      });
  }

  const AttnPlanInput& in_;
  const AttnPlanOptions& options_;
  const int32_t ratio_;
  AttnPlan plan_;
  std::vector<std::vector<uint32_t>> blocked_;
  std::vector<View> views_;
  std::vector<Piece> pieces_;
  std::vector<Emitted> emitted_;
  std::vector<int32_t> kept_;
  std::map<std::vector<int32_t>, int32_t> holed_;  // positions in the list → where they were stored
  int32_t list_begin_ = 0;
};

}  // namespace

const char* attn_kernel_name(AttnKernel kernel) {
  constexpr const char* kNames[] = {"attn_mma", "attn_decode", "attn_wgmma"};
  return kNames[static_cast<int>(kernel)];
}

int32_t attn_kernel_rows(AttnKernel kernel) {
  constexpr int32_t kRows[] = {kMmaRows, kDecodeRows, kWgmmaRows};
  return kRows[static_cast<int>(kernel)];
}

bool edge_blocks(const Edge& edge) { return edge.beta <= kBlocked / 2; }

std::vector<Edge> device_edges(const Edge* edges, int64_t count) {
  std::vector<Edge> out(edges, edges + count);
  for (Edge& edge : out) {
    if (!(edge.gamma >= 0.0f) || !(edge.post >= 0.0f) || std::isnan(edge.beta))
      refuse("an edge has gamma " + std::to_string(edge.gamma) + ", beta " + std::to_string(edge.beta) + ", post " +
             std::to_string(edge.post) + "; gamma and post are at least 0");
    edge.gamma = std::max(edge.gamma, kLeastGamma);
    if (edge_blocks(edge)) edge.beta = kBlocked;  // log2 e times less would be −∞
  }
  return out;
}

AttnPlan plan_attention(const AttnPlanInput& input, const AttnPlanOptions& options) {
  check(input);
  return Planner(input, options).run();
}

std::vector<ProbeItem> plan_probe(const QueryBlock& block, int32_t heads, int32_t token0, int32_t tokens, int32_t run0,
                                  int64_t base) {
  if (token0 < block.token0 || tokens < 0 || token0 + tokens > block.token0 + block.tokens)
    refuse("probe of tokens " + std::to_string(token0) + " + " + std::to_string(tokens) + " outside their block");
  std::vector<ProbeItem> items;
  for (int32_t r = 0; r < block.run_count; ++r)
    for (int32_t h = 0; h < heads; ++h) items.push_back({run0 + r, h, token0, tokens, base + block.runs[r].index});
  return items;
}

}  // namespace galvani::gpu
