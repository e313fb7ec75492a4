// The one softmax algebra. The state of a query row over a set of keys is (m, l, t, O), base 2:
//
//   x_j = log2(e) · score_j      m ≥ max x_j      l = Σ 2^(x_j−m)      t = Σ 2^(x_j−m)(x_j−m)      O = Σ 2^(x_j−m) v_j
//
// Merging two disjoint key sets rescales both to the larger m and adds; it is associative and commutative, so the same
// lines serve key runs, decode splits, segments and captures. t needs its d·l term when m moves:
//   d = m − m′, a = 2^d:   l ← a·l,   t ← a·(t + d·l),   O ← a·O.
// Empty set: m = kEmptyMax, l = t = 0, O = 0; its outputs are O = 0, mass 0, entropy 0, lse −∞, never NaN.
#pragma once
#include <cmath>
#include <limits>

#include "ops/softmax_constants.h"

namespace galvani {

struct SoftmaxState {
  float m = kEmptyMax;
  float l = 0.0f;
  float t = 0.0f;

  bool empty() const { return l == 0.0f; }

  // Moves the reference maximum to `to`; returns the factor by which O must be scaled.
  float rescale(float to) {
    const float d = m - to;
    const float a = std::exp2(d);
    t = l == 0.0f ? 0.0f : a * (t + d * l);
    l *= a;
    m = to;
    return a;
  }

  // Adds one key with base-2 score x; m must already be ≥ x. Returns its weight 2^(x−m).
  float add(float x) {
    const float p = std::exp2(x - m);
    l += p;
    t += p * (x - m);
    return p;
  }

  // ln Σ exp(score): natural units.
  float lse() const { return empty() ? -std::numeric_limits<float>::infinity() : kLn2 * (m + std::log2(l)); }
  // Entropy of the row's distribution, nats.
  float entropy() const { return empty() ? 0.0f : kLn2 * (std::log2(l) - t / l); }
};

// a ← a ∪ b. Returns the factors by which the two O vectors must be scaled before adding.
struct MergeScale {
  float a, b;
};
inline MergeScale merge(SoftmaxState& a, SoftmaxState b) {
  const float to = a.m > b.m ? a.m : b.m;
  const MergeScale scale{a.rescale(to), b.rescale(to)};
  a.l += b.l;
  a.t += b.t;
  return scale;
}

}  // namespace galvani
