// Merges the partial states of rows whose keys were cut into parts (decode splits, shared prefixes), in the order of the
// parts, and finishes them: output with head edits, lse, entropy, masses. One warp per row; a row without parts is the
// empty row. Any sm_80+.
#include "ops/gpu/attn_tile.h"
#include "ops/gpu/launchers.h"

namespace galvani::gpu {
namespace {

constexpr int kWarps = 4;
constexpr int kMostPerLane = 4;  // D ≤ 128

DEV_KERNEL(32 * kWarps, 1)
attn_combine_kernel(const DEV_PARAM AttnParams p) {
  const int lane = dev::tid() & 31, index = dev::bid() * kWarps + (dev::tid() >> 5);
  if (index >= p.row_count) return;
  const CombineRow row = p.rows[index];
  const AttnPart* parts = p.parts + row.part_begin;

  float m = kEmptyMax, l = 0.0f, t = 0.0f;
  float o[kMostPerLane] = {};
  for (int i = 0; i < row.part_count; ++i) {
    const int64_t slot = parts[i].slot;
    const float* state = p.part_state + slot * 4;
    const float to = dev::max(m, state[0]), d = m - to, e = state[0] - to;
    const float a = dev::ex2(d), b = dev::ex2(e);
    t = a * dev::fma(d, l, t) + b * dev::fma(e, state[1], state[2]);
    l = a * l + b * state[1];
    m = to;
    DEV_UNROLL
    for (int j = 0; j < kMostPerLane; ++j)
      if (lane + 32 * j < p.head_dim) o[j] = a * o[j] + b * p.part_o[slot * p.head_dim + lane + 32 * j];
  }

  const bool empty = l == 0.0f;
  const float share = empty ? 0.0f : dev::rcp(l);
  const int captured = p.capture ? p.capture[row.token] : row.token;
  if (captured >= 0) {
    const int64_t at = static_cast<int64_t>(captured) * p.heads + row.head;
    if (lane == 0 && p.lse) p.lse[at] = empty ? -dev::inf() : kLn2 * (m + dev::lg2(l));
    if (lane == 0 && p.entropy) p.entropy[at] = empty ? 0.0f : kLn2 * (dev::lg2(l) - t * share);
    if (p.mass)
      for (int g = lane; g < p.segments; g += 32) {
        float sum = 0.0f;
        for (int i = 0; i < row.part_count; ++i) {
          const float* state = p.part_segment + (static_cast<int64_t>(parts[i].slot) * p.segments + g) * 2;
          sum += state[1] * dev::ex2(state[0] - m);
        }
        p.mass[at * p.segments + g] = sum * share;
      }
  }
  const HookProgram* program = program_of(p, row.token);
  const float scale = share * (program && program->head_scale ? program->head_scale[row.head] : 1.0f);
  const float* add = program && program->head_add ? program->head_add + static_cast<int64_t>(row.head) * p.head_dim : nullptr;
  bf16* to = p.out + row.token * p.out_stride + static_cast<int64_t>(row.head) * p.head_dim;
  DEV_UNROLL
  for (int j = 0; j < kMostPerLane; ++j) {
    const int d = lane + 32 * j;
    if (d < p.head_dim) to[d] = dev::to_bf16(o[j] * scale + (add ? add[d] : 0.0f));
  }
}

}  // namespace

int attn_combine_launch(const AttnParams& p, void* stream) {
  if (p.row_count == 0) return 0;
  if (p.head_dim > 32 * kMostPerLane) return kUnsupported;
  return DEV_LAUNCH(attn_combine_kernel, (dev::Grid{(p.row_count + kWarps - 1) / kWarps, 1}), 32 * kWarps, 0, stream, p);
}

}  // namespace galvani::gpu
