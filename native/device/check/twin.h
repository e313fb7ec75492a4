// The same scene through the CPU twin, ops/attention.h.
#pragma once
#include <vector>

#include "core/parallel.h"
#include "device/check/scene.h"

namespace galvani::gpu::check {

struct TwinResult {
  std::vector<float> out;           // (tokens, H, D)
  std::vector<float> lse, entropy;  // (tokens, H)
  std::vector<float> mass;          // (tokens, H, segments)
  std::vector<float> top_weight;    // (tokens, H, top_k)
};

TwinResult run_twin(const Scene& scene, ThreadPool& pool);

}  // namespace galvani::gpu::check
