// 2^x for vectors.
#pragma once
#include "ops/vec.h"

namespace galvani {
namespace {

// 2^f for |f| ≤ 1/2: 1 + f·P(f), the degree-6 polynomial of least relative error with P rounded to float32 (1.6e-8
// before evaluation, by a linear programme over Chebyshev points). Exactly 1 at f = 0.
GALVANI_INLINE Vec exp2_fraction(Vec f) {
  Vec p = set(0x1.41fbbep-13f);
  p = fma(p, f, set(0x1.5f3e54p-10f));
  p = fma(p, f, set(0x1.3b2d4cp-7f));
  p = fma(p, f, set(0x1.c6aee8p-5f));
  p = fma(p, f, set(0x1.ebfbdcp-3f));
  p = fma(p, f, set(0x1.62e43p-1f));
  return fma(p, f, set(1.0f));
}

// 2^x, x ≤ 0, error below 2 ulp (1 with FMA); exactly 0 below −126, so that no weight is ever subnormal.
GALVANI_INLINE Vec exp2_nonpositive(Vec x) {
  const Vec clamped = max(set(-126.0f), x);
  const Vec n = round_even(clamped);
  const Vec p = scale_by_power(exp2_fraction(sub(clamped, n)), n);
  return select(greater(set(-126.0f), x), zero(), p);
}

}  // namespace
}  // namespace galvani
