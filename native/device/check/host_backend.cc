#include "device/check/host_backend.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "ops/softmax_constants.h"

namespace galvani::gpu::check {
namespace {

using F = HostFault;
F active = F::kNone;
std::string complaint;
int64_t launches = 0;

bool has(F fault) { return active == fault; }
int fail(const std::string& what) {
  complaint = what;
  return 1;
}

constexpr double kLn2Exact = 0.69314718055994530942;

// softmax_state.h with its O and segments, in float64.
struct State {
  double m = kEmptyMax, l = 0.0, t = 0.0;
  std::vector<double> o;
  double segment_m[kMaxSegments], segment_l[kMaxSegments];

  explicit State(int32_t dims) : o(dims, 0.0) {
    std::fill_n(segment_m, kMaxSegments, static_cast<double>(kEmptyMax));
    std::fill_n(segment_l, kMaxSegments, 0.0);
  }
  double rescale(double to) {
    if (to <= m) return 1.0;
    const double d = m - to, a = std::exp2(d);
    t = l == 0.0 ? 0.0 : a * (t + (has(F::kEntropyNoRescale) ? 0.0 : d * l));
    l *= a;
    m = to;
    return a;
  }
  void merge(const State& other, bool rescaled) {
    const double to = std::max(m, other.m), a = rescale(to), d = other.m - to, b = rescaled ? std::exp2(d) : 1.0;
    l += b * other.l;
    if (other.l > 0.0) t += b * (other.t + (has(F::kEntropyNoRescale) ? 0.0 : d * other.l));
    for (size_t i = 0; i < o.size(); ++i) o[i] = a * o[i] + b * other.o[i];
    for (int s = 0; s < kMaxSegments; ++s) {
      const double seg = std::max(segment_m[s], other.segment_m[s]);
      segment_l[s] =
          segment_l[s] * std::exp2(segment_m[s] - seg) + other.segment_l[s] * std::exp2(other.segment_m[s] - seg);
      segment_m[s] = seg;
    }
  }
};

class Row {
 public:
  Row(const AttnParams& p, int32_t token, int32_t head, int32_t kv_head)
      : p_(p), token_(token), head_(head), kv_head_(has(F::kHeadMapModulo) ? head % p.kv_heads : kv_head) {
    const int32_t number = p.token_program && !has(F::kProgramIgnored) ? p.token_program[token] : 0;
    program_ = p.programs ? &p.programs[number] : nullptr;
  }

  Edge edge(int32_t segment) const {
    if (!program_ || !program_->edges) return {};
    int64_t row_class = p_.token_class && !has(F::kRowClassIgnored) ? p_.token_class[token_] : 0;
    row_class = std::min<int64_t>(row_class, program_->row_classes - 1);
    const int64_t head_class = program_->head_class && !has(F::kHeadClassIgnored) ? program_->head_class[head_] : 0;
    Edge edge = program_->edges[(head_class * program_->row_classes + row_class) * program_->segments + segment];
    if (has(F::kGammaIgnored)) edge.gamma = 1.0f;
    if (has(F::kBlockedFaint) && edge.beta <= kBlocked / 2) edge.beta = -100.0f;
    return edge;
  }

  bool sees(int32_t index) const {
    const int64_t low = p_.low ? int64_t{p_.low[token_]} + has(F::kLowExclusive) : std::numeric_limits<int32_t>::min();
    const int64_t high =
        p_.high ? int64_t{p_.high[token_]} - has(F::kHighExclusive) : std::numeric_limits<int32_t>::max();
    return low <= index && index <= high;
  }

  const bf16* row_of(const bf16* arena, const PageRun& run, int32_t j) const {
    const int32_t slot = (has(F::kFirstIgnored) ? 0 : run.first) + j;
    return arena + ((int64_t{run.page} * p_.kv_heads + kv_head_) * kPageKeys + slot) * p_.head_dim;
  }

  double score(const PageRun& run, const Edge& edge, int32_t j) const {
    const bf16* q = p_.q + token_ * p_.q_stride + int64_t{head_} * p_.head_dim;
    const bf16* k = row_of(p_.k, run, j);
    double dot = 0.0;
    for (int32_t d = 0; d < p_.head_dim; ++d)
      dot += static_cast<double>(bf16_to_float(q[d].bits)) * bf16_to_float(k[d].bits);
    const double x = static_cast<double>(edge.gamma) * p_.scale * dot / kLn2Exact +
                     edge.beta * (has(F::kBetaBase2) ? 1.0 : 1.0 / kLn2Exact);
    return has(F::kScoresRounded) ? bf16_to_float(float_to_bf16(static_cast<float>(x))) : x;
  }

  // visit(j, score) for each visible key of a run.
  template <class Visit>
  void each_key(const PageRun& run, Visit visit) const {
    const Edge e = edge(run.segment);
    if (e.beta <= kBlocked / 2) return;
    for (int32_t j = 0; j < run.count - has(F::kLastKeyMissed); ++j)
      if (sees(run.index + j)) visit(j, score(run, e, j));
  }

  State attend(const PageRun* runs, int32_t count, float* run_max) const {
    State state(p_.head_dim);
    double unposted = 0.0;
    for (int32_t r = 0; r < count; ++r) {
      const PageRun& run = runs[r];
      const float post = edge(run.segment).post;
      const int32_t segment = (run.segment + has(F::kMassNextSegment)) % p_.segments;
      double most = kEmptyMax;
      each_key(run, [&](int32_t j, double x) {
        most = std::max(most, x);
        const double a = state.rescale(std::max(state.m, x));
        for (double& o : state.o) o *= a;
        unposted *= a;
        const double weight = std::exp2(x - state.m);
        state.l += weight;
        state.t += weight * (x - state.m);
        unposted += weight * post;
        const bf16* v = row_of(p_.v, run, j);
        for (int32_t d = 0; d < p_.head_dim; ++d) state.o[d] += weight * post * bf16_to_float(v[d].bits);
        const double seg = std::max(state.segment_m[segment], x);
        state.segment_l[segment] = state.segment_l[segment] * std::exp2(state.segment_m[segment] - seg) +
                                   std::exp2(x - seg) * (has(F::kPostInMass) ? post : 1.0);
        state.segment_m[segment] = seg;
      });
      if (run_max) run_max[r] = static_cast<float>(most);
    }
    if (has(F::kPostRenormalises) && unposted > 0.0)
      for (double& o : state.o) o *= state.l / unposted;
    return state;
  }

  int64_t capture() const { return p_.capture && !has(F::kCaptureIgnored) ? p_.capture[token_] : token_; }

  void finish(const State& state, bool head_edits = true) const {
    const bool empty = state.l == 0.0;
    bf16* out = p_.out + token_ * p_.out_stride + int64_t{head_} * p_.head_dim;
    for (int32_t d = 0; d < p_.head_dim; ++d) {
      double value = empty ? 0.0 : state.o[d] / state.l;
      if (empty && has(F::kEmptyNan)) value = std::nan("");
      if (has(F::kOutScaled)) value *= 1.02;
      if (has(F::kRacy) && launches % 2 == 0) value += 0x1.0p-9 * value;
      if (program_ && head_edits && program_->head_scale && !has(F::kNoHeadScale)) value *= program_->head_scale[head_];
      if (program_ && head_edits && program_->head_add && !has(F::kNoHeadAdd))
        value += program_->head_add[int64_t{head_} * p_.head_dim + d];
      out[d].bits = float_to_bf16(static_cast<float>(value));
    }
    if (has(F::kGapWritten) && head_ == p_.heads - 1 && p_.out_stride > int64_t{p_.heads} * p_.head_dim)
      out[p_.head_dim].bits = 0;
    const int64_t row = capture();
    if (row < 0) return;
    const int64_t at = row * p_.heads + head_;
    const double log2_sum = state.m + std::log2(state.l);
    if (p_.lse)
      p_.lse[at] = static_cast<float>(empty ? -std::numeric_limits<double>::infinity()
                                            : log2_sum * (has(F::kLseBase2) ? 1.0 : kLn2Exact));
    if (p_.entropy)
      p_.entropy[at] = static_cast<float>(empty ? 0.0 : kLn2Exact * (std::log2(state.l) - state.t / state.l));
    for (int32_t s = 0; p_.mass && s < p_.segments; ++s) {
      const double mass = state.segment_l[s] * std::exp2(state.segment_m[s] - state.m);
      p_.mass[at * p_.segments + s] = static_cast<float>(empty                       ? 0.0
                                                         : has(F::kMassUnnormalised) ? mass
                                                                                     : mass / state.l);
    }
  }

 private:
  const AttnParams& p_;
  const int32_t token_, head_, kv_head_;
  const HookProgram* program_;
};

void save(const AttnParams& p, int64_t slot, const State& state) {
  for (int32_t d = 0; d < p.head_dim; ++d) p.part_o[slot * p.head_dim + d] = static_cast<float>(state.o[d]);
  float* to = p.part_state + slot * 4;
  to[0] = static_cast<float>(state.m);
  to[1] = static_cast<float>(state.l);
  to[2] = static_cast<float>(state.t);
  for (int32_t s = 0; p.part_segment && s < p.segments; ++s) {
    float* segment = p.part_segment + (slot * p.segments + s) * 2;
    segment[0] = static_cast<float>(has(F::kPartSegmentFromRow) ? state.m : state.segment_m[s]);
    segment[1] = static_cast<float>(state.segment_l[s]);
  }
}

State load(const AttnParams& p, int64_t slot) {
  State state(p.head_dim);
  for (int32_t d = 0; d < p.head_dim; ++d) state.o[d] = p.part_o[slot * p.head_dim + d];
  const float* from = p.part_state + slot * 4;
  state.m = from[0];
  state.l = from[1];
  state.t = from[2];
  for (int32_t s = 0; p.part_segment && s < p.segments; ++s) {
    state.segment_m[s] = p.part_segment[(slot * p.segments + s) * 2];
    state.segment_l[s] = p.part_segment[(slot * p.segments + s) * 2 + 1];
  }
  return state;
}

int tiles(const AttnParams& p, int32_t rows) {
  ++launches;
  if (has(F::kLaunchFails)) return fail("planted");
  for (int32_t i = 0; i < p.item_count; ++i) {
    const AttnItem& item = p.items[i];
    const int32_t ratio = p.heads / p.kv_heads;
    if (item.tokens < 1 || item.heads < 1 || item.tokens * item.heads > rows || item.run_count < 1 ||
        item.head0 / ratio != item.kv_head || (item.head0 + item.heads - 1) / ratio != item.kv_head)
      return fail("item " + std::to_string(i) + " is no tile");
    for (int32_t r = 0; r < item.tokens * item.heads - has(F::kRowSkipped); ++r) {
      const int32_t token = item.token0 + r / item.heads, head = item.head0 + r % item.heads;
      const Row row(p, token, head, item.kv_head);
      // The promise behind low_max and high_min, since tiles skip the mask by it.
      if (p.low && p.low[token] > item.low_max) return fail("low_max");
      if (p.high && p.high[token] < item.high_min) return fail("high_min");
      const int64_t capture = row.capture();
      float* run_max = p.run_max && capture >= 0 ? p.run_max + (capture * p.heads + head) * p.run_max_stride +
                                                       (has(F::kRunMaxShifted) ? 0 : item.run_order)
                                                 : nullptr;
      const State state = row.attend(p.runs + item.run_begin, item.run_count, run_max);
      if (item.slot < 0)
        row.finish(state);
      else
        save(p, int64_t{item.slot} + r, state);
    }
  }
  if (has(F::kGuardWritten)) p.out[p.tokens * p.out_stride].bits = 0;
  if (has(F::kInputWritten)) const_cast<bf16*>(p.q)[0].bits ^= 1;
  return 0;
}

int attn_mma(const AttnParams* p, void*) { return tiles(*p, kMmaRows); }
int attn_decode(const AttnParams* p, void*) { return tiles(*p, kDecodeRows); }
int attn_wgmma(const AttnParams* p, void*) {
  return p->head_dim == 128 ? tiles(*p, kWgmmaRows) : fail("attn_wgmma: head dimension 128 only");
}

int attn_combine(const AttnParams* params, void*) {
  const AttnParams& p = *params;
  for (int32_t i = 0; i < p.row_count; ++i) {
    const CombineRow& at = p.rows[i];
    if (at.part_count == 0 && has(F::kEmptyCombineSkipped)) continue;
    State state(p.head_dim);
    const int32_t count = at.part_count - (has(F::kCombineDropsPart) && at.part_count > 1);
    for (int32_t n = 0; n < count; ++n)
      state.merge(load(p, p.parts[at.part_begin + n].slot), !has(F::kCombineNoRescale));
    Row(p, at.token, at.head, at.head / (p.heads / p.kv_heads)).finish(state, !has(F::kCombineNoHeadEdits));
  }
  return 0;
}

int topk_refine(const AttnParams* params, void*) {
  const AttnParams& p = *params;
  struct Run {
    float most;
    const PageRun* run;
    int32_t order;
  };
  struct Key {
    double x;
    int32_t index, order;  // place in the list
  };
  for (int32_t i = 0; i < p.row_count; ++i) {
    const CombineRow& at = p.rows[i];
    const Row row(p, at.token, at.head, at.head / (p.heads / p.kv_heads));
    const int64_t capture = row.capture();
    if (capture < 0) continue;
    const int64_t state = capture * p.heads + at.head;
    std::vector<Run> runs;
    for (int32_t n = 0; n < at.part_count; ++n) {
      const AttnPart& part = p.parts[at.part_begin + n];
      for (int32_t r = 0; r < part.run_count; ++r) {
        const float most = p.run_max[state * p.run_max_stride + part.run_order + r];
        if (most > kEmptyMax) runs.push_back({most, p.runs + part.run_begin + r, part.run_order + r});
      }
    }
    std::stable_sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) { return a.most > b.most; });
    // The k largest keys lie in the k runs of the largest maxima; of equal maxima the earlier run.
    const size_t looked_at = has(F::kTopOneRun) ? 1 : static_cast<size_t>(p.top_k);
    if (runs.size() > looked_at) runs.resize(looked_at);
    std::vector<Key> keys;
    for (const Run& run : runs)
      row.each_key(*run.run, [&](int32_t j, double x) {
        keys.push_back({x, run.run->index + j, run.order * kPageKeys + j});
      });
    const bool later = has(F::kTopLaterTie), ascending = has(F::kTopAscending);
    std::sort(keys.begin(), keys.end(), [&](const Key& a, const Key& b) {
      if (a.x != b.x) return ascending ? a.x < b.x : a.x > b.x;
      return later ? a.order > b.order : a.order < b.order;
    });
    for (int32_t n = 0; n < p.top_k; ++n) {
      const bool found = n < static_cast<int32_t>(keys.size());
      const double from = has(F::kTopUnnormalised) ? 0.0 : p.lse[state] / kLn2Exact;
      p.top_index[state * p.top_k + n] = found ? keys[n].index : -1;
      p.top_weight[state * p.top_k + n] = found ? static_cast<float>(std::exp2(keys[n].x - from)) : 0.0f;
    }
  }
  return 0;
}

int attn_probe(const ProbeParams* params, void*) {
  const AttnParams& p = params->attn;
  for (int32_t i = 0; i < params->item_count; ++i) {
    const ProbeItem& item = params->items[i];
    const PageRun& run = p.runs[item.run];
    std::vector<double> sum(run.count);
    for (int32_t t = item.token0; t < item.token0 + item.tokens; ++t) {
      const Row row(p, t, item.head, item.head / (p.heads / p.kv_heads));
      const int64_t capture = row.capture();
      if (capture < 0 && !has(F::kKeyMassOfAll)) continue;
      std::vector<double> weights(run.count);
      const double lse = capture < 0 ? 0.0 : p.lse[capture * p.heads + item.head] / kLn2Exact;
      row.each_key(run, [&](int32_t j, double x) { weights[j] = std::exp2(x - lse); });
      for (int32_t j = 0; j < run.count; ++j) {
        sum[j] += weights[j];
        if (params->pattern && capture >= 0)
          params->pattern[(capture * p.heads + item.head) * params->key_span +
                          (has(F::kPatternFirstColumn) ? 0 : item.column0) + j] = static_cast<float>(weights[j]);
      }
    }
    for (int32_t j = 0; params->key_mass && j < run.count; ++j) {
      float& to = params->key_mass[item.head * params->key_span + item.column0 + j];
      to = static_cast<float>(sum[j]) + (has(F::kKeyMassAccumulated) ? to : 0.0f);
    }
  }
  return 0;
}

// ---- Memory is the host's, streams do nothing ----

const char* last_error() { return complaint.c_str(); }
int device_count(int32_t* count) {
  *count = 1;
  return 0;
}
int device_info(int32_t, DeviceInfo* info) {
  *info = {};
  std::strcpy(info->name, "plain C++ by the definition");
  info->compute_major = 9;
  info->multiprocessors = 16;
  return 0;
}
int set_device(int32_t) { return 0; }
int alloc(void** pointer, int64_t bytes) {
  *pointer = std::aligned_alloc(256, static_cast<size_t>((bytes + 255) / 256 * 256));
  return *pointer ? 0 : fail("out of memory");
}
int release(void* pointer) {
  std::free(pointer);
  return 0;
}
int fill(void* pointer, int32_t byte, int64_t bytes, void*) {
  std::memset(pointer, byte, static_cast<size_t>(bytes));
  return 0;
}
int copy(void* to, const void* from, int64_t bytes, void*) {
  std::memcpy(to, from, static_cast<size_t>(bytes));
  return 0;
}
int stream(void** stream) {
  *stream = nullptr;
  return 0;
}
int nothing(void*) { return 0; }
int record(void*, void*) { return 0; }
int elapsed(float* ms, void*, void*) {
  *ms = 0.0f;
  return 0;
}

Backend make_table() {
  Backend table{};  // entries outside attention stay null
  table.abi = kBackendAbi;
  table.size = sizeof(Backend);
  table.name = "host";
  table.targets = "";
  table.last_error = last_error;
  table.device_count = device_count;
  table.device_info = device_info;
  table.set_device = set_device;
  table.alloc = alloc;
  table.free = release;
  table.fill = fill;
  table.copy_in = table.copy_out = table.copy = copy;
  table.stream_create = stream;
  table.stream_destroy = table.sync = table.event_destroy = nothing;
  table.event_create = stream;
  table.event_record = record;
  table.event_elapsed_ms = elapsed;
  table.attn_mma = attn_mma;
  table.attn_decode = attn_decode;
  table.attn_wgmma = attn_wgmma;
  table.attn_combine = attn_combine;
  table.attn_probe = attn_probe;
  table.topk_refine = topk_refine;
  return table;
}

}  // namespace

const char* host_fault_name(HostFault fault) {
  constexpr const char* kNames[] = {"none",
                                    "out scaled",
                                    "no head scale",
                                    "no head add",
                                    "head map modulo",
                                    "first ignored",
                                    "last key missed",
                                    "low exclusive",
                                    "high exclusive",
                                    "row class ignored",
                                    "head class ignored",
                                    "program ignored",
                                    "gamma ignored",
                                    "beta base 2",
                                    "post renormalises",
                                    "post in mass",
                                    "blocked faint",
                                    "empty NaN",
                                    "scores rounded",
                                    "lse base 2",
                                    "entropy no rescale",
                                    "mass unnormalised",
                                    "mass next segment",
                                    "capture ignored",
                                    "row skipped",
                                    "gap written",
                                    "guard written",
                                    "input written",
                                    "racy",
                                    "combine drops a part",
                                    "combine no rescale",
                                    "combine no head edits",
                                    "empty combine skipped",
                                    "part segment from row",
                                    "run_max shifted",
                                    "top ascending",
                                    "top later tie",
                                    "top unnormalised",
                                    "top one run",
                                    "key mass accumulated",
                                    "key mass of all",
                                    "pattern first column",
                                    "launch fails"};
  static_assert(sizeof kNames / sizeof *kNames == static_cast<size_t>(F::kEnd));
  return kNames[static_cast<int>(fault)];
}

const Backend* host_backend() {
  static const Backend table = make_table();
  return &table;
}

void set_host_fault(HostFault fault) { active = fault; }

}  // namespace galvani::gpu::check
