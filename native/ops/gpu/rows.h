// What the row-wise kernels share: eight bfloat16 at a time, sums and maxima over a block in a fixed order.
#pragma once
#include <cstring>

#include "ops/gpu/dev.h"

namespace galvani::gpu {

inline constexpr float kLog2e = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

DEV_FN float as_float(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
DEV_FN uint32_t as_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}

// 16 bytes ⇄ eight bfloat16 as floats.
DEV_FN void widen8(dev::U4 u, float (&x)[8]) {
  const uint32_t words[4] = {u.x, u.y, u.z, u.w};
  DEV_UNROLL
  for (int i = 0; i < 4; ++i) {
    const dev::Pair pair = dev::unpack(words[i]);
    x[2 * i] = pair.lo;
    x[2 * i + 1] = pair.hi;
  }
}
DEV_FN dev::U4 narrow8(const float (&x)[8]) {
  return {dev::pack(x[0], x[1]), dev::pack(x[2], x[3]), dev::pack(x[4], x[5]), dev::pack(x[6], x[7])};
}
// Eight float32, 16-byte aligned.
DEV_FN void load8(const float* p, float (&x)[8]) {
  DEV_UNROLL
  for (int i = 0; i < 8; i += 4) {
    const dev::U4 u = dev::ld16(p + i);
    const uint32_t words[4] = {u.x, u.y, u.z, u.w};
    DEV_UNROLL
    for (int j = 0; j < 4; ++j) x[i + j] = as_float(words[j]);
  }
}
DEV_FN void store8(float* p, const float (&x)[8]) {
  DEV_UNROLL
  for (int i = 0; i < 8; i += 4)
    dev::st16(p + i, {as_bits(x[i]), as_bits(x[i + 1]), as_bits(x[i + 2]), as_bits(x[i + 3])});
}

DEV_FN float warp_sum(float v) {
  DEV_UNROLL
  for (int mask = 16; mask > 0; mask >>= 1) v += dev::shfl_xor(v, mask);
  return v;
}

// Sum over the block, the same bits in every thread. `partial`: one float per warp, in shared memory, free for reuse
// after the next barrier.
template <int kThreads>
DEV_FN float block_sum(float v, float* partial) {
  v = warp_sum(v);
  if ((dev::tid() & 31) == 0) partial[dev::tid() >> 5] = v;
  dev::sync();
  float sum = 0.0f;
  DEV_UNROLL
  for (int w = 0; w < kThreads / 32; ++w) sum += partial[w];
  return sum;
}

}  // namespace galvani::gpu
