#include "ops/sample.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "core/status.h"

namespace galvani {

double log_sum_exp(const float* logits, int64_t vocab) {
  double top = -std::numeric_limits<double>::infinity();
  for (int64_t i = 0; i < vocab; ++i) top = std::max(top, static_cast<double>(logits[i]));
  if (std::isinf(top)) return top;
  double sum = 0.0;
  for (int64_t i = 0; i < vocab; ++i) sum += std::exp(logits[i] - top);
  return top + std::log(sum);
}

int32_t argmax(const float* logits, int64_t vocab) {
  int64_t best = 0;
  for (int64_t i = 1; i < vocab; ++i)
    if (logits[i] > logits[best]) best = i;
  return static_cast<int32_t>(best);
}

double kl_divergence(const float* p_logits, const float* q_logits, int64_t vocab) {
  const double p_lse = log_sum_exp(p_logits, vocab), q_lse = log_sum_exp(q_logits, vocab);
  double sum = 0.0;
  for (int64_t i = 0; i < vocab; ++i) {
    const double log_p = p_logits[i] - p_lse, p = std::exp(log_p);
    if (p != 0.0) sum += p * (log_p - (q_logits[i] - q_lse));  // 0 · log 0 = 0; NaN stays NaN
  }
  return sum;
}

int32_t sample(const float* logits, int64_t vocab, const SampleOptions& options, double uniform) {
  if (vocab <= 0) throw Error(Code::kBadArgument, "sample: the vocabulary is empty");
  if (!(options.temperature >= 0.0f) || !(options.top_p > 0.0f) || options.top_p > 1.0f || options.top_k < 0)
    throw Error(Code::kBadArgument, "sample: temperature " + std::to_string(options.temperature) + " (≥ 0), top_k " +
                                        std::to_string(options.top_k) + " (≥ 0), top_p " +
                                        std::to_string(options.top_p) + " (in (0, 1])");
  if (!(uniform >= 0.0 && uniform < 1.0))
    throw Error(Code::kBadArgument, "sample: uniform " + std::to_string(uniform) + " is outside [0, 1)");
  if (options.temperature == 0.0f) return argmax(logits, vocab);

  std::vector<int32_t> order(vocab);
  std::iota(order.begin(), order.end(), 0);
  // NaN last: a comparison that is no order would send std::sort out of bounds.
  const auto key = [&](int32_t i) { return std::isnan(logits[i]) ? -std::numeric_limits<float>::infinity() : logits[i]; };
  const auto before = [&](int32_t a, int32_t b) { return key(a) != key(b) ? key(a) > key(b) : a < b; };
  int64_t kept = vocab;
  if (options.top_k > 0 && options.top_k < vocab) {
    kept = options.top_k;
    std::partial_sort(order.begin(), order.begin() + kept, order.end(), before);
  } else {
    std::sort(order.begin(), order.end(), before);
  }
  // Probabilities over the kept candidates, most likely first.
  std::vector<double> weight(kept);
  const double top = logits[order[0]];
  double total = 0.0;
  for (int64_t i = 0; i < kept; ++i) total += weight[i] = std::exp((logits[order[i]] - top) / options.temperature);
  if (options.top_p < 1.0f) {
    double mass = 0.0;
    for (int64_t i = 0; i < kept; ++i) {
      mass += weight[i];
      if (mass >= options.top_p * total) {
        kept = i + 1;
        total = mass;
        break;
      }
    }
  }
  double left = uniform * total;
  for (int64_t i = 0; i < kept; ++i) {
    left -= weight[i];
    if (left < 0.0) return order[i];
  }
  return order[kept - 1];  // rounding ate the last sliver
}

double uniform_at(uint64_t seed, uint64_t counter) {
  uint64_t z = seed + (counter + 1) * 0x9e3779b97f4a7c15ull;  // splitmix64: state, then finaliser
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  z ^= z >> 31;
  return static_cast<double>(z >> 11) * 0x1.0p-53;
}

}  // namespace galvani
