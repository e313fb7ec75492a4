// The attention tile, written once for three vector widths (vec.h). Three passes over the keys of a tile:
//   scores   x = gain · (q·k) + shift into scratch, and the exact maximum m of each lane
//   weights  p = 2^(x − m) in place; l, t and the segment masses key by key
//   values   o += p · v (or post · p · v), key by key
// The exact maximum first (instead of a running one) is what makes blocking a key bit-equal to removing it.
#pragma once
#include "ops/attention_tile.h"
#include "ops/softmax_constants.h"
#include "ops/vec.h"
#include "ops/vec_exp.h"

namespace galvani {
namespace {

// Keys (in scores) or head dimensions (in values) that share one load of the tile's lanes.
constexpr int kBroadcasts = kRegisters == 32 ? 12 : 6;

template <int kVectors, int kKeys>
GALVANI_INLINE void score_keys(const AttentionTile& tile, const AttentionSpan& span, int32_t first, float* x,
                               Vec (&m)[kVectors]) {
  constexpr int kLanes = kVectors * kWidth;
  Vec acc[kKeys][kVectors];
  const float* k[kKeys];
#pragma GCC unroll 12
  for (int i = 0; i < kKeys; ++i) {
    k[i] = span.k + (first + i) * span.stride;
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) acc[i][v] = zero();
  }
  const float* q = tile.q;
  for (int32_t d = 0; d < tile.head_dim; ++d, q += kLanes) {
    Vec lanes[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) lanes[v] = load(q + v * kWidth);
#pragma GCC unroll 12
    for (int i = 0; i < kKeys; ++i) {
      const Vec key = set(k[i][d]);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) acc[i][v] = fma(key, lanes[v], acc[i][v]);
    }
  }
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) {
    const Vec gain = load(span.gain + v * kWidth), shift = load(span.shift + v * kWidth), blocked = set(kBlocked);
#pragma GCC unroll 12
    for (int i = 0; i < kKeys; ++i) {
      Vec score = max(blocked, fma(gain, acc[i][v], shift));
      if (span.cut) {
        const int32_t index = span.index + first + i;
        score = select(at_least(load_int(tile.limit + v * kWidth), index), score, blocked);
        if (tile.low) score = select(at_least(load_int(tile.low + v * kWidth), index + 1), blocked, score);
      }
      m[v] = max(m[v], score);
      store(x + i * kLanes + v * kWidth, score);
    }
  }
}

template <int kVectors>
void scores(const AttentionTile& tile, Vec (&m)[kVectors]) {
  constexpr int kLanes = kVectors * kWidth;
  float* x = tile.weights;
  for (int32_t s = 0; s < tile.span_count; ++s) {
    const AttentionSpan& span = tile.spans[s];
    int32_t j = 0;
    for (; j + kBroadcasts <= span.count; j += kBroadcasts, x += kBroadcasts * kLanes)
      score_keys<kVectors, kBroadcasts>(tile, span, j, x, m);
    for (; j + 4 <= span.count; j += 4, x += 4 * kLanes) score_keys<kVectors, 4>(tile, span, j, x, m);
    for (; j < span.count; ++j, x += kLanes) score_keys<kVectors, 1>(tile, span, j, x, m);
  }
}

template <int kVectors>
void weights(const AttentionTile& tile, const Vec (&m)[kVectors], Vec (&l)[kVectors], Vec (&t)[kVectors]) {
  constexpr int kLanes = kVectors * kWidth;
  // A lane that sees nothing has m = kBlocked; measured from 0 its weights are 0 instead of 1.
  Vec from[kVectors];
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) from[v] = select(greater(m[v], set(0.5f * kBlocked)), m[v], zero());
  float* x = tile.weights;
  for (int32_t s = 0; s < tile.span_count; ++s) {
    const AttentionSpan& span = tile.spans[s];
    Vec mass[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) mass[v] = span.mass ? load(span.mass + v * kWidth) : zero();
    for (int32_t j = 0; j < span.count; ++j, x += kLanes)
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        const Vec below = sub(load(x + v * kWidth), from[v]);
        const Vec p = exp2_nonpositive(below);
        store(x + v * kWidth, p);
        l[v] = add(l[v], p);
        t[v] = fma(p, below, t[v]);
        mass[v] = add(mass[v], p);
      }
    if (!span.mass) continue;
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) store(span.mass + v * kWidth, mass[v]);
  }
}

template <int kVectors, int kDims, bool kPost>
GALVANI_INLINE void weigh_dims(const float* value, int64_t stride, const float* p, int32_t count,
                               const Vec (&post)[kVectors], float* o) {
  constexpr int kLanes = kVectors * kWidth;
  Vec acc[kDims][kVectors];
#pragma GCC unroll 12
  for (int i = 0; i < kDims; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) acc[i][v] = load(o + i * kLanes + v * kWidth);
  for (int32_t j = 0; j < count; ++j, value += stride, p += kLanes) {
    Vec weight[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      weight[v] = load(p + v * kWidth);
      if constexpr (kPost) weight[v] = mul(weight[v], post[v]);
    }
#pragma GCC unroll 12
    for (int i = 0; i < kDims; ++i) {
      const Vec element = set(value[i]);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) acc[i][v] = fma(element, weight[v], acc[i][v]);
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < kDims; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) store(o + i * kLanes + v * kWidth, acc[i][v]);
}

template <int kVectors, bool kPost>
void weigh(const float* value, int64_t stride, const float* p, int32_t count, const float* post, int32_t dims,
           float* o) {
  constexpr int kLanes = kVectors * kWidth;
  Vec factor[kVectors];
#pragma GCC unroll 2
  for (int v = 0; v < kVectors; ++v) factor[v] = kPost ? load(post + v * kWidth) : zero();
  int32_t d = 0;
  for (; d + kBroadcasts <= dims; d += kBroadcasts, o += kBroadcasts * kLanes)
    weigh_dims<kVectors, kBroadcasts, kPost>(value + d, stride, p, count, factor, o);
  for (; d + 4 <= dims; d += 4, o += 4 * kLanes) weigh_dims<kVectors, 4, kPost>(value + d, stride, p, count, factor, o);
  for (; d < dims; ++d, o += kLanes) weigh_dims<kVectors, 1, kPost>(value + d, stride, p, count, factor, o);
}

template <int kVectors>
void values(const AttentionTile& tile) {
  constexpr int kLanes = kVectors * kWidth;
  constexpr int32_t kBlock = 128;  // keys whose V and weights stay in cache while all of D goes by
  const int32_t dims = tile.head_dim;
  for (int32_t i = 0; i < dims * kVectors; ++i) store(tile.o + i * kWidth, zero());
  const float* p = tile.weights;
  for (int32_t s = 0; s < tile.span_count; ++s) {
    const AttentionSpan& span = tile.spans[s];
    for (int32_t j = 0; j < span.count; j += kBlock) {
      const int32_t count = span.count - j < kBlock ? span.count - j : kBlock;
      const float* v = span.v + j * span.stride;
      if (span.post)
        weigh<kVectors, true>(v, span.stride, p, count, span.post, dims, tile.o);
      else
        weigh<kVectors, false>(v, span.stride, p, count, nullptr, dims, tile.o);
      p += static_cast<int64_t>(count) * kLanes;
    }
  }
}

template <int kVectors>
void run_tile(const AttentionTile& tile) {
  Vec m[kVectors], l[kVectors], t[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    m[v] = set(kEmptyMax);
    l[v] = t[v] = zero();
  }
  scores<kVectors>(tile, m);
  weights<kVectors>(tile, m, l, t);
  values<kVectors>(tile);
  for (int32_t d = 0; d < tile.head_dim; ++d)
    for (int v = 0; v < kVectors; ++v) {
      float* o = tile.o + (d * kVectors + v) * kWidth;
      store(o, select(equal(l[v], zero()), zero(), div(load(o), l[v])));
    }
  for (int v = 0; v < kVectors; ++v) {
    store(tile.m + v * kWidth, m[v]);
    store(tile.l + v * kWidth, l[v]);
    store(tile.t + v * kWidth, t[v]);
  }
}

GALVANI_INLINE void attention_tile(const AttentionTile& tile) {
  tile.vectors == 1 ? run_tile<1>(tile) : run_tile<2>(tile);
}

}  // namespace
}  // namespace galvani
