// The keys of largest weight of each captured row, exactly: the k largest lie in the k runs with the largest maxima, which
// attention wrote on its way (run_max). One warp per (token, head) row recomputes the scores of those runs only.
//
// Scores here are float32 dot products in another order than the tensor cores': keys whose scores agree to rounding may
// change places.
#include "ops/gpu/attn_tile.h"
#include "ops/gpu/launchers.h"

namespace galvani::gpu {
namespace {

// Candidates of one row: scores of up to kMaxTop runs, and what they are.
struct Candidates {
  float score[kMaxTop * kPageKeys];
  int32_t run[kMaxTop];    // into p.runs, −1: none
  int32_t order[kMaxTop];  // place in the row's key list
};

// The lane holding the largest value; ties go to the smaller order.
DEV_FN void best_of_warp(float& value, int& order, int& what) {
  DEV_UNROLL
  for (int step = 16; step > 0; step >>= 1) {
    const float v = dev::shfl_xor(value, step);
    const int o = dev::shfl_xor(order, step), w = dev::shfl_xor(what, step);
    if (v > value || (v == value && o < order)) {
      value = v;
      order = o;
      what = w;
    }
  }
}

DEV_KERNEL(32, 1)
topk_refine_kernel(const DEV_PARAM AttnParams p) {
  DEV_SHARED(shared);
  Candidates& found = *reinterpret_cast<Candidates*>(shared);
  float* q = reinterpret_cast<float*>(shared + sizeof(Candidates));
  const int lane = dev::tid();
  const CombineRow row = p.rows[dev::bid()];
  const int captured = p.capture ? p.capture[row.token] : row.token;
  if (captured < 0) return;
  const int64_t at = static_cast<int64_t>(captured) * p.heads + row.head;
  const float* maxima = p.run_max + at * p.run_max_stride;
  const AttnPart* parts = p.parts + row.part_begin;
  const int kv_head = row.head / (p.heads / p.kv_heads);
  const bf16* query = p.q + row.token * p.q_stride + static_cast<int64_t>(row.head) * p.head_dim;
  for (int d = lane; d < p.head_dim; d += 32) q[d] = dev::to_float(query[d]);
  const int low = p.low ? p.low[row.token] : 0, high = p.high ? p.high[row.token] : 0x7fffffff;
  const HookProgram* program = program_of(p, row.token);
  const Edge* edges = nullptr;
  if (p.has_edges && program && program->edges) {
    const int head_class = program->head_class ? program->head_class[row.head] : 0;
    const int row_class = p.token_class ? p.token_class[row.token] : 0;
    edges = program->edges + (head_class * program->row_classes + row_class) * program->segments;
  }
  dev::sync_warp();

  // The runs with the largest maxima, one after the other.
  float last = dev::inf();
  int last_order = -1, count = 0;
  for (; count < p.top_k; ++count) {
    float value = kEmptyMax;
    int order = 0x7fffffff, what = -1;
    for (int i = 0; i < row.part_count; ++i)
      for (int j = lane; j < parts[i].run_count; j += 32) {
        const int o = parts[i].run_order + j;
        const float v = maxima[o];
        const bool taken = v > last || (v == last && o <= last_order);
        if (!taken && v > kEmptyBelow && (v > value || (v == value && o < order))) {
          value = v;
          order = o;
          what = parts[i].run_begin + j;
        }
      }
    best_of_warp(value, order, what);
    if (what < 0) break;
    last = value;
    last_order = order;
    if (lane == 0) {
      found.run[count] = what;
      found.order[count] = order;
    }
  }
  dev::sync_warp();

  for (int c = 0; c < count; ++c) {
    const PageRun run = p.runs[found.run[c]];
    Edge edge;
    if (edges && run.segment < program->segments) edge = edges[run.segment];
    const float gain = p.scale * kLog2e * dev::max(edge.gamma, kLeastGamma), shift = edge.beta * kLog2e;
    for (int key = lane; key < kPageKeys; key += 32) {
      float x = kEmptyMax;
      if (key < run.count && run.index + key >= low && run.index + key <= high) {
        const bf16* k = p.k + (page_row(p, run.page, kv_head) + run.first + key) * p.head_dim;
        float dot = 0.0f;
        for (int d = 0; d < p.head_dim; d += 8) {
          const dev::U4 chunk = dev::ld16(k + d);
          const uint32_t words[4] = {chunk.x, chunk.y, chunk.z, chunk.w};
          DEV_UNROLL
          for (int i = 0; i < 4; ++i) {
            const dev::Pair pair = dev::unpack(words[i]);
            dot = dev::fma(pair.lo, q[d + 2 * i], dot);
            dot = dev::fma(pair.hi, q[d + 2 * i + 1], dot);
          }
        }
        x = dev::fma(dot, gain, shift);
      }
      found.score[c * kPageKeys + key] = x;
    }
  }
  dev::sync_warp();

  const float lse = p.lse[at] * kLog2e;
  for (int k = 0; k < p.top_k; ++k) {
    float value = kEmptyMax;
    int order = 0x7fffffff, what = -1;
    for (int i = lane; i < count * kPageKeys; i += 32) {
      // i is not in list order across runs: the run's order decides, then the key.
      const int o = found.order[i / kPageKeys] * kPageKeys + i % kPageKeys;
      if (found.score[i] > value || (found.score[i] == value && found.score[i] > kEmptyBelow && o < order)) {
        value = found.score[i];
        order = o;
        what = i;
      }
    }
    best_of_warp(value, order, what);
    if (lane == 0) {
      const bool some = what >= 0 && value > kEmptyBelow;
      p.top_index[at * p.top_k + k] = some ? p.runs[found.run[what / kPageKeys]].index + what % kPageKeys : -1;
      p.top_weight[at * p.top_k + k] = some ? dev::ex2(value - lse) : 0.0f;
      if (some) found.score[what] = kEmptyMax;
    }
    dev::sync_warp();
  }
}

}  // namespace

int topk_refine_launch(const AttnParams& p, void* stream) {
  if (p.row_count == 0 || p.top_k == 0) return 0;
  if (p.top_k < 0 || p.top_k > kMaxTop || p.head_dim % 8 != 0) return kUnsupported;
  const size_t shared = sizeof(Candidates) + sizeof(float) * static_cast<size_t>(p.head_dim);
  return DEV_LAUNCH(topk_refine_kernel, (dev::Grid{p.row_count, 1}), 32, shared, stream, p);
}

}  // namespace galvani::gpu
