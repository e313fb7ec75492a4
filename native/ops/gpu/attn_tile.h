// The softmax of attention tiles, shared by attn_mma, attn_decode and attn_wgmma: two query rows per thread against
// pages of 64 keys, base 2, with the hooks of ops/attention_hooks.h. The algebra is ops/softmax_state.h.
//
// All keys of a page have one segment, so a page costs its hooks once per row, not once per element: gain and shift of
// the scores are two loads, and the weights are summed into the running segment (l, t). When the next page's segment
// differs, the running one is flushed to shared memory together with the maximum it is measured from, and never rescaled.
#pragma once
#include "ops/gpu/tile.h"
#include "ops/softmax_constants.h"

namespace galvani::gpu {

inline constexpr float kEmptyBelow = 0.5f * kEmptyMax;  // a maximum below this has seen no key

// Shared-memory tables of a tile of kRows query rows; plane g, row r at [g · kRows + r]: no bank conflicts by rows.
template <int kRows>
struct TileTables {
  float* m;  // per segment: state of its keys so far
  float* l;
  float* t;
  float* gain;  // per segment: base-2 score = gain · (q·k) + shift
  float* shift;
  float* post;
  int* any_post;  // some post ≠ 1
  int segments;

  // Floats of shared memory.
  static constexpr int64_t size(int segments, bool stat, bool edge) {
    return static_cast<int64_t>(segments) * kRows * ((stat ? 3 : 0) + (edge ? 3 : 0)) + 4;
  }
  DEV_FN TileTables(unsigned char* at, int count, bool stat) : segments(count) {
    float* f = reinterpret_cast<float*>(at);
    any_post = reinterpret_cast<int*>(f);
    f += 4;
    const int plane = count * kRows;
    m = f;
    l = f + plane;
    t = f + 2 * plane;
    f += stat ? 3 * plane : 0;
    gain = f;
    shift = f + plane;
    post = f + 2 * plane;
  }
};

// Which query row a row of the tile is.
struct TileRow {
  int token;
  int head;
  bool valid;
  DEV_FN TileRow(const AttnItem& item, int row) {
    valid = row < item.tokens * item.heads;
    const int r = valid ? row : 0;
    token = item.token0 + r / item.heads;
    head = item.head0 + r % item.heads;
  }
};

DEV_FN const HookProgram* program_of(const AttnParams& p, int token) {
  return p.programs ? p.programs + (p.token_program ? p.token_program[token] : 0) : nullptr;
}

// Fills the tables; the caller synchronises after it.
template <int kRows, int kThreads, bool kStat, bool kEdge>
DEV_FN void fill_tables(const TileTables<kRows>& tables, const AttnParams& p, const AttnItem& item, int thread) {
  if (kEdge && thread == 0) *tables.any_post = 0;
  if (kEdge) dev::sync();
  for (int i = thread; i < kRows * tables.segments; i += kThreads) {
    if (kStat) {
      tables.m[i] = kEmptyMax;
      tables.l[i] = 0.0f;
      tables.t[i] = 0.0f;
    }
    if (!kEdge) continue;
    const TileRow row(item, i % kRows);
    const int segment = i / kRows;
    const HookProgram* program = program_of(p, row.token);
    Edge edge;
    if (row.valid && program && program->edges && segment < program->segments) {
      const int head_class = program->head_class ? program->head_class[row.head] : 0;
      const int row_class = p.token_class ? p.token_class[row.token] : 0;
      edge = program->edges[(head_class * program->row_classes + row_class) * program->segments + segment];
    }
    const bool blocked = edge.beta < 0.5f * kBlocked;
    // A blocked row keeps a gain: masked scores are kBlocked / gain.
    tables.gain[i] = p.scale * kLog2e * (blocked ? 1.0f : dev::max(edge.gamma, kLeastGamma));
    tables.shift[i] = blocked ? kBlocked : edge.beta * kLog2e;
    tables.post[i] = edge.post;
    if (edge.post != 1.0f) *tables.any_post = 1;
  }
}

template <int kRows, bool kStat, bool kEdge>
class RowSoftmax {
 public:
  float m[2], l[2], t[2];  // of the running segment; l and t are this thread's share of its row

  // row: the first of this thread's two rows, the second is row + 8.
  DEV_FN RowSoftmax(const TileTables<kRows>& tables, const AttnParams& p, const AttnItem& item, int row, int lane)
      : tables_(tables), gain_(p.scale * kLog2e), lane_(lane), row_(row) {
    DEV_UNROLL
    for (int r = 0; r < 2; ++r) {
      const TileRow q(item, row + 8 * r);
      m[r] = kEmptyMax;
      l[r] = t[r] = 0.0f;
      low_[r] = p.low ? p.low[q.token] : 0;
      high_[r] = p.high ? p.high[q.token] : 0x7fffffff;
      run_max_[r] = nullptr;
      if (!kStat || !p.run_max || !q.valid) continue;
      const int captured = p.capture ? p.capture[q.token] : q.token;
      if (captured >= 0)
        run_max_[r] = p.run_max + (static_cast<int64_t>(captured) * p.heads + q.head) * p.run_max_stride + item.run_order;
    }
  }

  // Turns scores q·k of kPages pages into weights 2^(x − m), in place; returns in `alpha` the factors for the rows' O.
  // A page with count 0 is absent. `first` is the item's number of the first page.
  template <int kPages>
  DEV_FN void step(float (&s)[8 * kPages][4], const PageRun (&page)[kPages], const AttnItem& item, int first,
                   float (&alpha)[2]) {
    float gain[kPages][2], shift[kPages][2], top[2] = {kEmptyMax, kEmptyMax};
    DEV_UNROLL
    for (int h = 0; h < kPages; ++h) {
      const PageRun& d = page[h];
      DEV_UNROLL
      for (int r = 0; r < 2; ++r) {
        gain[h][r] = kEdge ? tables_.gain[d.segment * kRows + row_ + 8 * r] : gain_;
        shift[h][r] = kEdge ? tables_.shift[d.segment * kRows + row_ + 8 * r] : 0.0f;
      }
      // Some row sees only a part of this page.
      if (d.count < kPageKeys || d.index < item.low_max || d.index > item.high_min - (kPageKeys - 1))
        mask(s, h, d, gain[h]);
      DEV_UNROLL
      for (int r = 0; r < 2; ++r) {
        float most = s[8 * h][2 * r];
        DEV_UNROLL
        for (int n = 0; n < 8; ++n) most = dev::max(most, dev::max(s[8 * h + n][2 * r], s[8 * h + n][2 * r + 1]));
        most = dev::max(kEmptyMax, dev::fma(quad_max(most), gain[h][r], shift[h][r]));
        top[r] = dev::max(top[r], most);
        if (kStat && run_max_[r] && (lane_ & 3) == 0 && d.count > 0)
          run_max_[r][first + h] = most > kEmptyBelow ? most : kEmptyMax;
      }
    }
    float from[2];
    DEV_UNROLL
    for (int r = 0; r < 2; ++r) {
      const float to = dev::max(m[r], top[r]), d = m[r] - to;
      alpha[r] = dev::ex2(d);
      if (kStat) t[r] = alpha[r] * dev::fma(d, l[r], t[r]);
      l[r] *= alpha[r];
      m[r] = to;
      from[r] = to > kEmptyBelow ? to : 0.0f;  // measured from 0, masked weights are 0 instead of 1
    }
    DEV_UNROLL
    for (int h = 0; h < kPages; ++h) {
      if (kStat && page[h].count > 0 && page[h].segment != segment_) {
        if (segment_ >= 0) flush();
        segment_ = page[h].segment;
      }
      DEV_UNROLL
      for (int n = 0; n < 8; ++n)
        DEV_UNROLL
        for (int i = 0; i < 4; ++i) {
          const int r = i >> 1;
          const float x = dev::fma(s[8 * h + n][i], gain[h][r], shift[h][r] - from[r]);
          const float weight = dev::ex2(x);
          l[r] += weight;
          if (kStat) t[r] = dev::fma(weight, x, t[r]);
          s[8 * h + n][i] = weight;
        }
      if (kEdge && *tables_.any_post) {
        DEV_UNROLL
        for (int r = 0; r < 2; ++r) {
          const float post = tables_.post[page[h].segment * kRows + row_ + 8 * r];
          DEV_UNROLL
          for (int n = 0; n < 8; ++n) {
            s[8 * h + n][2 * r] *= post;
            s[8 * h + n][2 * r + 1] *= post;
          }
        }
      }
    }
  }

  // Ends the running segment. With kStat the totals of a row are then in the tables, and (m, l, t) are the row's over all
  // segments after total().
  DEV_FN void flush() {
    DEV_UNROLL
    for (int r = 0; r < 2; ++r) {
      const float sum = quad_sum(l[r]), sum_t = quad_sum(t[r]);
      if ((lane_ & 3) == 0) {
        const int at = segment_ * kRows + row_ + 8 * r;
        const float d = tables_.m[at] - m[r], a = dev::ex2(d);  // an earlier visit: m never falls, so d ≤ 0
        tables_.t[at] = dev::fma(a, dev::fma(d, tables_.l[at], tables_.t[at]), sum_t);
        tables_.l[at] = dev::fma(a, tables_.l[at], sum);
        tables_.m[at] = m[r];
      }
      l[r] = t[r] = 0.0f;
    }
  }

  // After the last page: (l, t) become the sums of the whole rows, the same in the four lanes of a row.
  DEV_FN void total() {
    if (kStat) {
      if (segment_ >= 0) flush();
      dev::sync_warp();
      DEV_UNROLL
      for (int r = 0; r < 2; ++r)
        for (int g = 0; g < tables_.segments; ++g) {
          const int at = g * kRows + row_ + 8 * r;
          const float d = tables_.m[at] - m[r], a = dev::ex2(d);
          t[r] += a * dev::fma(d, tables_.l[at], tables_.t[at]);
          l[r] = dev::fma(a, tables_.l[at], l[r]);
        }
    } else {
      DEV_UNROLL
      for (int r = 0; r < 2; ++r) l[r] = quad_sum(l[r]);
    }
  }

 private:
  template <int kTiles>
  DEV_FN void mask(float (&s)[kTiles][4], int h, const PageRun& d, const float (&gain)[2]) const {
    DEV_UNROLL
    for (int r = 0; r < 2; ++r) {
      const float masked = kBlocked / gain[r];
      const int from = low_[r] - d.index;  // first visible key of the page
      const int to = high_[r] - d.index < d.count - 1 ? high_[r] - d.index : d.count - 1;
      DEV_UNROLL
      for (int n = 0; n < 8; ++n)
        DEV_UNROLL
        for (int i = 2 * r; i < 2 * r + 2; ++i) {
          const int key = n * 8 + fragment_column(lane_, i);
          if (key < from || key > to) s[8 * h + n][i] = masked;
        }
    }
  }

  const TileTables<kRows>& tables_;
  float gain_;
  int32_t low_[2], high_[2];
  float* run_max_[2];
  int segment_ = -1;
  int lane_, row_;
};

// Writes the rows of a tile: O as accumulators of D/8 column tiles, after total(). Final rows are normalised, edited
// and read out; rows of a split write their state for attn_combine.
template <int D, int kRows, bool kStat, bool kEdge>
DEV_FN void write_rows(const AttnParams& p, const AttnItem& item, const TileTables<kRows>& tables,
                       const RowSoftmax<kRows, kStat, kEdge>& state, const float (&o)[D / 8][4], int row0, int lane) {
  DEV_UNROLL
  for (int r = 0; r < 2; ++r) {
    const int row = row0 + 8 * r;
    const TileRow q(item, row);
    if (!q.valid) continue;
    const float m = state.m[r], l = state.l[r], t = state.t[r];
    const int quad = lane & 3;
    if (item.slot >= 0) {
      const int64_t slot = item.slot + row;
      float* to = p.part_o + slot * D;
      DEV_UNROLL
      for (int n = 0; n < D / 8; ++n) {
        to[n * 8 + 2 * quad] = o[n][2 * r];
        to[n * 8 + 2 * quad + 1] = o[n][2 * r + 1];
      }
      if (quad == 0) {
        p.part_state[slot * 4] = m;
        p.part_state[slot * 4 + 1] = l;
        p.part_state[slot * 4 + 2] = t;
        p.part_state[slot * 4 + 3] = 0.0f;
      }
      if (kStat && p.part_segment)
        for (int g = quad; g < p.segments; g += 4) {
          p.part_segment[(slot * p.segments + g) * 2] = tables.m[g * kRows + row];
          p.part_segment[(slot * p.segments + g) * 2 + 1] = tables.l[g * kRows + row];
        }
      continue;
    }
    const bool empty = l == 0.0f;
    const float share = empty ? 0.0f : dev::rcp(l);
    const int captured = p.capture ? p.capture[q.token] : q.token;
    if (captured >= 0) {
      const int64_t at = static_cast<int64_t>(captured) * p.heads + q.head;
      if (quad == 0 && p.lse) p.lse[at] = empty ? -dev::inf() : kLn2 * (m + dev::lg2(l));
      if (kStat && quad == 0 && p.entropy) p.entropy[at] = empty ? 0.0f : kLn2 * (dev::lg2(l) - t * share);
      if (kStat && p.mass)
        for (int g = quad; g < p.segments; g += 4)
          p.mass[at * p.segments + g] = tables.l[g * kRows + row] * dev::ex2(tables.m[g * kRows + row] - m) * share;
    }
    const HookProgram* program = program_of(p, q.token);
    float scale = share;
    const float* add = nullptr;
    if (program) {
      if (program->head_scale) scale *= program->head_scale[q.head];
      if (program->head_add) add = program->head_add + static_cast<int64_t>(q.head) * D;
    }
    bf16* to = p.out + q.token * p.out_stride + static_cast<int64_t>(q.head) * D;
    DEV_UNROLL
    for (int n = 0; n < D / 8; ++n) {
      const int column = n * 8 + 2 * quad;
      float lo = o[n][2 * r] * scale, hi = o[n][2 * r + 1] * scale;
      if (add) {
        lo += add[column];
        hi += add[column + 1];
      }
      *reinterpret_cast<uint32_t*>(to + column) = dev::pack(lo, hi);
    }
  }
}

}  // namespace galvani::gpu
