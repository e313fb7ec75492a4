// What the kernels over stored weights share: widening every stored type, and sums of float64 over a warp.
#pragma once
#include <cstring>

#include "ops/gpu/dev.h"
#include "ops/gpu/refuse.h"
#include "ops/gpu/rows.h"
#include "ops/gpu/weights_types.h"

namespace galvani::gpu {

DEV_FN float half_to_float(uint32_t bits) {
  const uint32_t magnitude = (bits & 0x7fffu) << 13;
  uint32_t scaled = as_bits(as_float(magnitude) * 0x1p112f);  // puts subnormals right
  if (magnitude >= 0x0f800000u) scaled |= 0x7f800000u;
  return as_float(scaled | (bits & 0x8000u) << 16);
}
DEV_FN float e4m3_to_float(uint32_t bits) {
  const uint32_t magnitude = bits & 0x7fu;
  const uint32_t scaled = magnitude == 0x7fu ? 0x7fc00000u : as_bits(as_float(magnitude << 20) * 0x1p120f);
  return as_float(scaled | (bits & 0x80u) << 24);
}

// One element, any alignment that its type has.
DEV_FN float load_weight(const void* base, WeightType type, int64_t at) {
  if (type == WeightType::kF32) return static_cast<const float*>(base)[at];
  if (type == WeightType::kBF16) return as_float(static_cast<uint32_t>(static_cast<const uint16_t*>(base)[at]) << 16);
  if (type == WeightType::kF16) return half_to_float(static_cast<const uint16_t*>(base)[at]);
  const uint32_t byte = static_cast<const uint8_t*>(base)[at];
  return type == WeightType::kF8E4M3 ? e4m3_to_float(byte) : half_to_float(byte << 8);
}

// Elements [at, at + 8), `valid` of them; the others are zeros.
DEV_FN void load_weights(const void* base, WeightType type, int64_t at, int valid, float (&w)[8]) {
  if (type == WeightType::kF32) {
    const float* p = static_cast<const float*>(base) + at;
    if (valid == 8) return load8(p, w);
    DEV_UNROLL
    for (int i = 0; i < 8; ++i) w[i] = i < valid ? p[i] : 0.0f;
    return;
  }
  uint32_t words[4] = {0, 0, 0, 0};  // two halves or four bytes each
  const bool wide = type == WeightType::kF16 || type == WeightType::kBF16;
  if (wide && valid == 8) {
    const dev::U4 u = dev::ld16(static_cast<const uint16_t*>(base) + at);
    words[0] = u.x, words[1] = u.y, words[2] = u.z, words[3] = u.w;
  } else if (wide) {
    const uint16_t* p = static_cast<const uint16_t*>(base) + at;
    DEV_UNROLL
    for (int i = 0; i < 8; ++i)
      if (i < valid) words[i / 2] |= static_cast<uint32_t>(p[i]) << (16 * (i % 2));
  } else if (valid == 8) {
    const uint64_t u = *reinterpret_cast<const uint64_t*>(static_cast<const uint8_t*>(base) + at);
    words[0] = static_cast<uint32_t>(u);
    words[1] = static_cast<uint32_t>(u >> 32);
  } else {
    const uint8_t* p = static_cast<const uint8_t*>(base) + at;
    DEV_UNROLL
    for (int i = 0; i < 8; ++i)
      if (i < valid) words[i / 4] |= static_cast<uint32_t>(p[i]) << (8 * (i % 4));
  }
  DEV_UNROLL
  for (int i = 0; i < 8; ++i) {
    const uint32_t pair = words[i / 2] >> (16 * (i % 2)) & 0xffffu, byte = words[i / 4] >> (8 * (i % 4)) & 0xffu;
    if (type == WeightType::kBF16) w[i] = as_float(pair << 16);
    else if (type == WeightType::kF16) w[i] = half_to_float(pair);
    else if (type == WeightType::kF8E4M3) w[i] = e4m3_to_float(byte);
    else w[i] = half_to_float(byte << 8);  // e5m2 is the upper byte of a half
  }
}

DEV_FN uint32_t warp_total(uint32_t v) {
  DEV_UNROLL
  for (int mask = 16; mask > 0; mask >>= 1) v += dev::shfl_xor(v, mask);
  return v;
}
DEV_FN uint32_t warp_largest(uint32_t v) {
  DEV_UNROLL
  for (int mask = 16; mask > 0; mask >>= 1) {
    const uint32_t other = dev::shfl_xor(v, mask);
    v = other > v ? other : v;
  }
  return v;
}
DEV_FN double warp_total(double v) {
  DEV_UNROLL
  for (int mask = 16; mask > 0; mask >>= 1) {
    uint64_t bits;
    memcpy(&bits, &v, 8);
    const uint32_t low = dev::shfl_xor(static_cast<uint32_t>(bits), mask);
    const uint32_t high = dev::shfl_xor(static_cast<uint32_t>(bits >> 32), mask);
    bits = static_cast<uint64_t>(high) << 32 | low;
    double other;
    memcpy(&other, &bits, 8);
    v += other;
  }
  return v;
}

// Host: what every launch over weights refuses. 0 when all is well.
inline int refuse_weights(const void* const* weights, const WeightType* types, int count) {
  for (int v = 0; v < count; ++v) {
    if (reinterpret_cast<uintptr_t>(weights[v]) % 16 != 0) return refuse("version %d is not 16-byte aligned", v);
    if (types[v] < WeightType::kF32 || types[v] > WeightType::kF8E5M2)
      return refuse("version %d has unknown type %d", v, static_cast<int>(types[v]));
  }
  return 0;
}

}  // namespace galvani::gpu
