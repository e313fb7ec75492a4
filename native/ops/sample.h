// Choosing the next token from logits, and scoring it.
#pragma once
#include <cstdint>

namespace galvani {

// log Σ exp(logits), (V); float64 inside.
double log_sum_exp(const float* logits, int64_t vocab);

// Largest logit; the lowest id wins a tie, as torch.argmax does on the CPU.
int32_t argmax(const float* logits, int64_t vocab);

// KL(p ‖ q) in nats of softmax(p_logits) against softmax(q_logits); float64 inside.
double kl_divergence(const float* p_logits, const float* q_logits, int64_t vocab);

struct SampleOptions {
  float temperature = 0.0f;  // 0: greedy
  int32_t top_k = 0;         // 0: off
  float top_p = 1.0f;        // 1: off
};

// Draws from softmax(logits / temperature) restricted to top_k, then to the smallest set of mass ≥ top_p (nucleus,
// Holtzman et al. 2020). `uniform` in [0, 1). Deterministic; order among equal logits is by id.
int32_t sample(const float* logits, int64_t vocab, const SampleOptions& options, double uniform);

// Counter-based uniform in [0, 1): the same (seed, counter) gives the same number anywhere (splitmix64).
double uniform_at(uint64_t seed, uint64_t counter);

}  // namespace galvani
