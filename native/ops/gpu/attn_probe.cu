// Probabilities by key: column masses Σ_i p_ij over a range of query rows, and explicit rows of the pattern. They need
// the final lse of each row, so this is a second pass over the keys of interest after attention itself.
//
// Key-stationary: a block holds one run of keys for one query head and walks over the query rows, Sᵀ = K·Qᵀ, so that a
// column sum is a register row sum: no atomics, and the order of addition depends on the range of rows alone.
#include "ops/gpu/attn_warp.h"
#include "ops/gpu/launchers.h"

namespace galvani::gpu {
namespace {

constexpr int kThreads = 128;
constexpr int kQueries = 64;  // query rows per step

template <int D>
struct ProbeShared {
  static constexpr int kTile = kPageKeys * TileLayout<D>::kRowBytes;
  static constexpr int kColumns = 3 * kTile;  // offset of the query columns' constants: K, then two stages of Q
  static constexpr int kBytes = kColumns + kQueries * 5 * 4;
};

// What a query row contributes with: weight = 2^(gain · s + shift) for the keys in [low, high].
struct Columns {
  float* gain;
  float* shift;
  int32_t* low;
  int32_t* high;
  int32_t* captured;
  DEV_FN explicit Columns(unsigned char* at) {
    gain = reinterpret_cast<float*>(at);
    shift = gain + kQueries;
    low = reinterpret_cast<int32_t*>(shift + kQueries);
    high = low + kQueries;
    captured = high + kQueries;
  }
  DEV_FN void fill(const ProbeParams& probe, const ProbeItem& item, const PageRun& run, int first, int thread) const {
    if (thread >= kQueries) return;
    const AttnParams& p = probe.attn;
    gain[thread] = 1.0f;
    shift[thread] = kBlocked;
    captured[thread] = -1;
    low[thread] = 0;
    high[thread] = -1;
    if (first + thread >= item.tokens) return;
    const int token = item.token0 + first + thread;
    const int row = p.capture ? p.capture[token] : token;
    if (row < 0) return;
    captured[thread] = row;
    low[thread] = p.low ? p.low[token] : 0;
    high[thread] = p.high ? p.high[token] : 0x7fffffff;
    const float lse = p.lse[static_cast<int64_t>(row) * p.heads + item.head];
    Edge edge;
    const HookProgram* program = program_of(p, token);
    if (p.has_edges && program && program->edges && run.segment < program->segments) {
      const int head_class = program->head_class ? program->head_class[item.head] : 0;
      const int row_class = p.token_class ? p.token_class[token] : 0;
      edge = program->edges[(head_class * program->row_classes + row_class) * program->segments + run.segment];
    }
    if (lse == -dev::inf() || edge.beta < 0.5f * kBlocked) return;
    gain[thread] = p.scale * kLog2e * dev::max(edge.gamma, kLeastGamma);
    shift[thread] = kLog2e * (edge.beta - lse);
  }
};

template <int D>
DEV_KERNEL(kThreads, 2)
attn_probe_kernel(const DEV_PARAM ProbeParams probe) {
  using Shared = ProbeShared<D>;
  const AttnParams& p = probe.attn;
  DEV_SHARED(shared);
  const Columns columns(shared + Shared::kColumns);
  const int thread = dev::tid(), lane = thread & 31, warp = thread >> 5;
  const ProbeItem item = probe.items[dev::bid()];
  const PageRun run = p.runs[item.run];
  const auto q_tile = [&](int stage) { return shared + (1 + stage) * Shared::kTile; };
  const auto load = [&](int stage, int first) {
    const AttnItem rows{item.token0 + first, item.tokens - first, item.head, 1, 0, 0, 0, 0, 0, 0, 0, 0};
    load_queries<D, kQueries, kThreads>(q_tile(stage), p, rows, thread);
  };

  load_page<D, kThreads>(shared, p.k, p, run, item.head / (p.heads / p.kv_heads), thread);
  load(0, 0);
  dev::cp_commit();
  uint32_t k[D / 16][4];
  float sum[2] = {0.0f, 0.0f};
  const int steps = (item.tokens + kQueries - 1) / kQueries;
  for (int step = 0; step < steps; ++step) {
    const int first = step * kQueries, stage = step & 1;
    if (step + 1 < steps) load(stage ^ 1, first + kQueries);
    dev::cp_commit();
    columns.fill(probe, item, run, first, thread);
    dev::cp_wait<1>();
    dev::sync();
    if (step == 0) {
      DEV_UNROLL
      for (int c = 0; c < D / 16; ++c) dev::ldsm4(k[c], shared + TileLayout<D>::moved(a_offset<D>(lane), warp * 16, 2 * c));
    }
    float s[8][4] = {};
    DEV_UNROLL
    for (int c = 0; c < D / 16; ++c)
      DEV_UNROLL
      for (int n = 0; n < 4; ++n) {
        uint32_t b[4];
        dev::ldsm4(b, q_tile(stage) + TileLayout<D>::moved(b_offset<D>(lane), n * 16, 2 * c));
        dev::mma(s[2 * n], k[c], b[0], b[1]);
        dev::mma(s[2 * n + 1], k[c], b[2], b[3]);
      }
    DEV_UNROLL
    for (int n = 0; n < 8; ++n)
      DEV_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int key = warp * 16 + fragment_row(lane, i), column = n * 8 + fragment_column(lane, i);
        const int index = run.index + key;
        const bool visible = key < run.count && index >= columns.low[column] && index <= columns.high[column];
        const float x = dev::fma(s[n][i], columns.gain[column], columns.shift[column]);
        const float weight = visible ? dev::ex2(x) : 0.0f;
        sum[i >> 1] += weight;
        const int row = columns.captured[column];
        if (probe.pattern && row >= 0 && key < run.count)
          probe.pattern[(static_cast<int64_t>(row) * p.heads + item.head) * probe.key_span + item.column0 + key] = weight;
      }
    dev::sync();  // everyone has read these queries and constants
  }
  if (!probe.key_mass) return;
  DEV_UNROLL
  for (int r = 0; r < 2; ++r) {
    const float mass = quad_sum(sum[r]);
    const int key = warp * 16 + fragment_row(lane, 2 * r);
    if ((lane & 3) == 0 && key < run.count)
      probe.key_mass[static_cast<int64_t>(item.head) * probe.key_span + item.column0 + key] = mass;
  }
}

template <int D>
int launch(const ProbeParams& probe, void* stream) {
  return DEV_LAUNCH(attn_probe_kernel<D>, (dev::Grid{probe.item_count, 1}), kThreads, ProbeShared<D>::kBytes, stream,
                    probe);
}

}  // namespace

int attn_probe_launch(const ProbeParams& probe, void* stream) {
  if (probe.item_count == 0) return 0;
  switch (probe.attn.head_dim) {
    case 64:
      return launch<64>(probe, stream);
    case 80:
      return launch<80>(probe, stream);
    case 96:
      return launch<96>(probe, stream);
    case 128:
      return launch<128>(probe, stream);
  }
  return kUnsupported;
}

}  // namespace galvani::gpu
