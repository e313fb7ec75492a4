// From a row of the q | k | v projection to where attention reads it: bias added, q and k rotated (rotate-half: elements
// i and i + D/2 turn together), q to its rows, k and v to their slots of the arena. Two launches: the first clears every
// page whose first slot is written, so that rows that are not written yet read as zeros whatever order tokens come in.
// float32 inside, one rounding.
#include "ops/gpu/dev.h"
#include "ops/gpu/launchers.h"
#include "ops/gpu/refuse.h"
#include "ops/gpu/rows.h"

namespace galvani::gpu {
namespace {

constexpr int kThreads = 128;

// Arena row of a slot for one KV head: [page][KV head][slot][D].
DEV_FN int64_t arena_row(const KvAppendParams& p, int32_t slot, int kv_head) {
  return (static_cast<int64_t>(slot / kPageKeys) * p.kv_heads + kv_head) * kPageKeys + slot % kPageKeys;
}

DEV_KERNEL(kThreads, 8) clear_pages_kernel(DEV_PARAM const KvAppendParams p) {
  const int32_t slot = p.slot[dev::bid()];
  if (slot < 0 || slot % kPageKeys != 0) return;
  const int64_t at = arena_row(p, slot, 0) * p.head_dim;
  const int64_t size = static_cast<int64_t>(p.kv_heads) * kPageKeys * p.head_dim;
  for (int64_t i = 8 * dev::tid(); i < size; i += 8 * kThreads) {
    dev::st16(p.k + at + i, {0, 0, 0, 0});
    dev::st16(p.v + at + i, {0, 0, 0, 0});
  }
}

// x += bias, eight elements.
DEV_FN void add_bias(float (&x)[8], const float* bias, int64_t at) {
  if (!bias) return;
  float b[8];
  load8(bias + at, b);
  DEV_UNROLL
  for (int i = 0; i < 8; ++i) x[i] += b[i];
}

DEV_KERNEL(kThreads, 8) kv_append_kernel(DEV_PARAM const KvAppendParams p) {
  const int64_t token = dev::bid();
  const int32_t slot = p.slot[token];
  const int half = p.head_dim / 2, units = half / 8;  // a unit: eight elements and their partners half a head away
  const bf16* row = p.qkv + token * p.qkv_stride;
  for (int i = dev::tid(); i < (p.heads + 2 * p.kv_heads) * units; i += kThreads) {
    const int head = i / units, e = i % units * 8;
    const bool is_q = head < p.heads, is_v = head >= p.heads + p.kv_heads;
    if (!is_q && slot < 0) continue;
    const int64_t from = static_cast<int64_t>(head) * p.head_dim + e;
    float a[8], b[8];
    widen8(dev::ld16(row + from), a);
    widen8(dev::ld16(row + from + half), b);
    add_bias(a, p.bias, from);
    add_bias(b, p.bias, from + half);
    if (p.cosine && !is_v) {
      float c[8], s[8];
      load8(p.cosine + token * half + e, c);
      load8(p.sine + token * half + e, s);
      DEV_UNROLL
      for (int j = 0; j < 8; ++j) {
        const float first = a[j] * c[j] - b[j] * s[j];
        b[j] = b[j] * c[j] + a[j] * s[j];
        a[j] = first;
      }
    }
    bf16* to;
    if (is_q) {
      to = p.q + token * p.q_stride + from;
    } else {
      const int kv_head = head - p.heads - (is_v ? p.kv_heads : 0);
      to = (is_v ? p.v : p.k) + arena_row(p, slot, kv_head) * p.head_dim + e;
    }
    dev::st16(to, narrow8(a));
    dev::st16(to + half, narrow8(b));
  }
}

}  // namespace

int kv_append_launch(const KvAppendParams& p, void* stream) {
  if (p.head_dim <= 0 || p.head_dim % 16 != 0) return refuse("head_dim %d; expected a multiple of 16", p.head_dim);
  if (p.qkv_stride % 8 != 0 || p.q_stride % 8 != 0)
    return refuse("strides %lld, %lld; expected multiples of 8", static_cast<long long>(p.qkv_stride),
                  static_cast<long long>(p.q_stride));
  const dev::Grid grid{p.tokens, 1};
  if (const int code = DEV_LAUNCH(clear_pages_kernel, grid, kThreads, 0, stream, p)) return code;
  return DEV_LAUNCH(kv_append_kernel, grid, kThreads, 0, stream, p);
}

}  // namespace galvani::gpu
