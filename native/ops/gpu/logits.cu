// A row of logits reduced where it lies: log-sum-exp, argmax, scored ids, and a sampled id. One block per row; no
// floating-point atomics, so the same row gives the same bits in any batch.
//
// Sampling needs the order "larger logit first, then lower id" but not the sorted list: temperature, top-k, top-p and
// the draw are each the question "where in that order does a running sum (of 1, or of weights 2^((x − max)/T)) reach a
// target?". The answer is found digit by digit of the logit's bits made monotone: eight passes with sixteen sums each.
#include <cmath>

#include "ops/gpu/dev.h"
#include "ops/gpu/launchers.h"
#include "ops/gpu/refuse.h"
#include "ops/gpu/rows.h"

namespace galvani::gpu {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32;
static_assert(kWarps == 16);  // one warp sums one digit

struct Shared {
  float bins[16][kThreads];
  float totals[16];
  float partial[kWarps];
  int32_t index[kThreads];
};

// Order of float32 as unsigned integers, −0 = 0, NaN below everything.
DEV_FN uint32_t order_of(float x) {
  if (x != x) return 0;
  const uint32_t bits = as_bits(x + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
DEV_FN float value_of(uint32_t order) { return as_float(order & 0x80000000u ? order & 0x7fffffffu : ~order); }

// The first logit of the order at which the running sum passes the target.
struct Place {
  uint32_t order;  // its bits
  float before;    // the sum over all larger logits
};

enum class Sum { kCount, kWeight };

struct Row {
  const float* x;
  int vocab;
  float top;      // largest logit
  float sharpen;  // log2(e) / temperature
  Shared* shared;

  DEV_FN float weight(float value) const {
    const float w = dev::ex2((value - top) * sharpen);
    return w == w ? w : 0.0f;
  }

  // kCount: reaches `target` (≥); kWeight with strict: exceeds it, else reaches it.
  template <Sum kSum>
  DEV_FN Place find(float target, bool strict) const {
    Place place{0, 0.0f};
    for (int shift = 28; shift >= 0; shift -= 4) {
      float sums[16];
      DEV_UNROLL
      for (int d = 0; d < 16; ++d) sums[d] = 0.0f;
      for (int i = dev::tid(); i < vocab; i += kThreads) {
        const uint32_t order = order_of(x[i]);
        if (shift < 28 && order >> (shift + 4) != place.order >> (shift + 4)) continue;
        const float amount = kSum == Sum::kCount ? 1.0f : weight(x[i]);
        const uint32_t digit = order >> shift & 15u;
        DEV_UNROLL
        for (uint32_t d = 0; d < 16; ++d) sums[d] += digit == d ? amount : 0.0f;
      }
      DEV_UNROLL
      for (int d = 0; d < 16; ++d) shared->bins[d][dev::tid()] = sums[d];
      dev::sync();
      const int warp = dev::tid() >> 5, lane = dev::tid() & 31;
      float total = 0.0f;
      for (int i = lane; i < kThreads; i += 32) total += shared->bins[warp][i];
      total = warp_sum(total);
      if (lane == 0) shared->totals[warp] = total;
      dev::sync();
      int chosen = -1;
      float before = place.before, last_before = before;
      for (int d = 15; d >= 0; --d) {
        const float amount = shared->totals[d];
        if (amount > 0.0f) {  // rounding may leave the target unreached: then the last place that holds anything
          chosen = d;
          last_before = before;
          if (strict ? before + amount > target : before + amount >= target) break;
        }
        before += amount;
      }
      if (chosen < 0) chosen = 0;
      place.order |= static_cast<uint32_t>(chosen) << shift;
      place.before = last_before;
      dev::sync();  // totals are free again
    }
    return place;
  }

  // Sum of the weights of all logits above an order.
  DEV_FN float weight_above(uint32_t order) const {
    float sum = 0.0f;
    for (int i = dev::tid(); i < vocab; i += kThreads)
      if (order_of(x[i]) > order) sum += weight(x[i]);
    sum = block_sum<kThreads>(sum, shared->partial);
    dev::sync();
    return sum;
  }

  // The id of the (n + 1)-th logit of that order by id; the last one if there are fewer.
  DEV_FN int nth(uint32_t order, int n) const {
    const int share = (vocab + kThreads - 1) / kThreads, begin = dev::tid() * share;
    const int end = begin + share < vocab ? begin + share : vocab;
    int count = 0;
    for (int i = begin; i < end; ++i) count += order_of(x[i]) == order;
    shared->index[dev::tid()] = count;
    dev::sync();
    int all = 0, before = 0;
    for (int t = 0; t < kThreads; ++t) {
      if (t < dev::tid()) before += shared->index[t];
      all += shared->index[t];
    }
    dev::sync();
    if (n >= all) n = all - 1;
    if (before <= n && n < before + count)
      for (int i = begin; i < end; ++i)
        if (order_of(x[i]) == order && before++ == n) shared->index[0] = i;
    dev::sync();
    const int id = shared->index[0];
    dev::sync();
    return id;
  }

  DEV_FN int draw(int top_k, float top_p, float uniform) const {
    float total = weight_above(0);
    // The last candidate: so many logits of this order are in, and everything above it.
    uint32_t last_order = 0;
    float last_count = static_cast<float>(vocab);
    if (top_k > 0 && top_k < vocab) {
      const Place last = find<Sum::kCount>(static_cast<float>(top_k), false);
      last_order = last.order;
      last_count = static_cast<float>(top_k) - last.before;
      total = weight_above(last.order) + last_count * weight(value_of(last.order));
    }
    if (top_p < 1.0f) {
      const float target = top_p * total;
      const Place last = find<Sum::kWeight>(target, false);
      if (last.order >= last_order) {  // rounding may see it beyond top_k
        const float each = weight(value_of(last.order));
        const float count = each > 0.0f ? dev::max(ceilf((target - last.before) / each), 1.0f) : 1.0f;
        last_count = last.order == last_order ? dev::min(last_count, count) : count;
        last_order = last.order;
        total = dev::min(total, last.before + last_count * each);
      }
    }
    const float target = uniform * total;
    const Place place = find<Sum::kWeight>(target, true);
    const float each = weight(value_of(place.order));
    float skipped = each > 0.0f ? dev::max(floorf((target - place.before) / each), 0.0f) : 0.0f;
    if (place.order < last_order) skipped = last_count - 1.0f;  // rounding ate the last sliver
    if (place.order == last_order) skipped = dev::min(skipped, last_count - 1.0f);
    const uint32_t order = place.order < last_order ? last_order : place.order;
    return nth(order, static_cast<int>(dev::min(skipped, static_cast<float>(vocab))));
  }
};

DEV_KERNEL(kThreads, 1) logits_kernel(DEV_PARAM const LogitsParams p) {
  DEV_SHARED(raw);
  Shared& shared = *reinterpret_cast<Shared*>(raw);
  const int64_t row = dev::bid();
  const float* x = p.logits + row * p.vocab;

  // The largest logit and its lowest id; NaN loses, except that nothing beats one at id 0 (ops/sample.h).
  uint32_t best = 0;
  int best_id = 0;
  for (int i = dev::tid(); i < p.vocab; i += kThreads) {
    const uint32_t order = order_of(x[i]);
    if (i == dev::tid() || order > best) {
      best = order;
      best_id = i;
    }
  }
  if (dev::tid() >= p.vocab) best_id = p.vocab;
  const auto take = [&](uint32_t other, int other_id) {
    if (other > best || (other == best && other_id < best_id)) {
      best = other;
      best_id = other_id;
    }
  };
  DEV_UNROLL
  for (int mask = 16; mask > 0; mask >>= 1) {
    const uint32_t other = dev::shfl_xor(best, mask);
    take(other, dev::shfl_xor(best_id, mask));
  }
  if ((dev::tid() & 31) == 0) {
    shared.index[dev::tid() >> 5] = best_id;
    shared.partial[dev::tid() >> 5] = as_float(best);
  }
  dev::sync();
  for (int w = 0; w < kWarps; ++w) take(as_bits(shared.partial[w]), shared.index[w]);
  dev::sync();
  if (x[0] != x[0]) best_id = 0;

  const float top = best == 0 ? x[0] : value_of(best);  // NaN only if everything is
  float lse = top;
  if (fabsf(top) != dev::inf() && (p.lse || p.max_logprob || p.score_logprobs)) {
    float sum = 0.0f;
    for (int i = dev::tid(); i < p.vocab; i += kThreads) sum += dev::ex2((x[i] - top) * kLog2e);  // NaN stays NaN
    lse = top + kLn2 * dev::lg2(block_sum<kThreads>(sum, shared.partial));
    dev::sync();
  }
  if (dev::tid() == 0) {
    if (p.lse) p.lse[row] = lse;
    if (p.argmax) p.argmax[row] = best_id;
    if (p.max_logprob) p.max_logprob[row] = x[best_id] - lse;
  }
  if (p.score_logprobs)
    for (int i = dev::tid(); i < p.scored; i += kThreads) {
      const int32_t id = p.score_ids[row * p.scored + i];
      p.score_logprobs[row * p.scored + i] = id >= 0 && id < p.vocab ? x[id] - lse : as_float(0x7fc00000u);
    }
  if (!p.sampled) return;
  int sampled = best_id;
  if (p.temperature > 0.0f) {
    const Row row_of{x, p.vocab, top, kLog2e / p.temperature, &shared};
    sampled = row_of.draw(p.top_k, p.top_p, p.uniform[row]);
  }
  if (dev::tid() == 0) p.sampled[row] = sampled;
}

}  // namespace

int logits_launch(const LogitsParams& p, void* stream) {
  if (p.vocab <= 0) return refuse("the vocabulary is empty");
  if (p.sampled && (!(p.temperature >= 0.0f) || !(p.top_p > 0.0f) || p.top_p > 1.0f || p.top_k < 0))
    return refuse("temperature %g (≥ 0), top_k %d (≥ 0), top_p %g (in (0, 1])", static_cast<double>(p.temperature),
                  p.top_k, static_cast<double>(p.top_p));
  if (p.sampled && p.temperature > 0.0f && !p.uniform) return refuse("sampling without uniforms");
  return DEV_LAUNCH(logits_kernel, (dev::Grid{p.rows, 1}), kThreads, sizeof(Shared), stream, p);
}

}  // namespace galvani::gpu
