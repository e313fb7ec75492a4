// The planner (native/device/attn_plan.h) for callers without C++: bench/gpu/problem.py loads it with ctypes.
#pragma once
#include <cstdint>

#include "device/attn_plan.h"

namespace galvani::gpu {

struct PlanOptions {
  int32_t multiprocessors;
  int32_t wgmma;   // the device has attn_wgmma
  int32_t kernel;  // AttnKernel for everything; < 0: the planner's choice
  int32_t split_runs;
  int32_t cascade;
  int32_t cascade_runs;
  int32_t balance_batch;
  int32_t top_k;
};

// Arrays of one plan; they live as long as `owner`.
struct PlanResult {
  void* owner;
  const AttnItem* mma;
  const AttnItem* decode;
  const AttnItem* wgmma;
  const PageRun* runs;
  const CombineRow* rows;
  const AttnPart* parts;
  const CombineRow* top_rows;
  const AttnPart* top_parts;
  int32_t mma_count, decode_count, wgmma_count, run_count, row_count, part_count, top_row_count, top_part_count;
  int32_t slots;
  int32_t run_max_stride;
};

extern "C" {
// Writes the items of attn_probe for one block (plan_probe), at most `most` of them; returns how many there are, or −1.
__attribute__((visibility("default"))) int32_t galvani_plan_probe(const QueryBlock* block, int32_t heads, int32_t token0,
                                                                  int32_t tokens, int32_t run0, int64_t base,
                                                                  ProbeItem* items, int32_t most);
// 0, or 1 with galvani_plan_error().
__attribute__((visibility("default"))) int galvani_plan(const AttnPlanInput* input, const PlanOptions* options,
                                                        PlanResult* result);
__attribute__((visibility("default"))) void galvani_plan_free(void* owner);
__attribute__((visibility("default"))) const char* galvani_plan_error();
}

}  // namespace galvani::gpu
