// silu(gate) · up for vectors (vec.h), compiled once per instruction set.
#pragma once
#include "ops/activation_rows.h"
#include "ops/vec_exp.h"

namespace galvani {
namespace {

GALVANI_INLINE Vec silu(Vec x) {
  // x / (1 + 2^(−x·log2 e)); the largest exponent kept is 126, where the quotient is as good as 0.
  const Vec z = sub(zero(), x);
  const Vec n = round_even(max(set(-126.0f), min(set(126.0f), mul(z, set(0x1.715476p+0f)))));
  const Vec f = fma(z, set(0x1.4ae0cp-26f), fma(z, set(0x1.715476p+0f), sub(zero(), n)));  // log2 e = high + low
  const Vec bounded = max(set(-1.0f), min(set(1.0f), f));                                  // where n was held at ±126
  return div(x, add(set(1.0f), scale_by_power(exp2_fraction(bounded), n)));
}

GALVANI_INLINE void swiglu_row(float* y, const float* gate, const float* up, int64_t width) {
  int64_t i = 0;
  for (; i + kWidth <= width; i += kWidth) store(y + i, mul(silu(load(gate + i)), load(up + i)));
  if (i == width) return;
  float g[kWidth] = {}, u[kWidth] = {};
  std::memcpy(g, gate + i, (width - i) * sizeof(float));
  std::memcpy(u, up + i, (width - i) * sizeof(float));
  store(g, mul(silu(load(g)), load(u)));
  std::memcpy(y + i, g, (width - i) * sizeof(float));
}

}  // namespace
}  // namespace galvani
