#include "plan_abi.h"

#include <algorithm>
#include <exception>
#include <string>
#include <vector>

namespace galvani::gpu {
namespace {
thread_local std::string last_error;
}

int galvani_plan(const AttnPlanInput* input, const PlanOptions* o, PlanResult* result) {
  try {
    AttnPlanOptions options;
    options.multiprocessors = o->multiprocessors;
    options.wgmma = o->wgmma != 0;
    if (o->kernel >= 0) options.kernel = static_cast<AttnKernel>(o->kernel);
    options.split_runs = o->split_runs;
    options.cascade = o->cascade != 0;
    if (o->cascade_runs > 0) options.cascade_runs = o->cascade_runs;
    options.balance_batch = o->balance_batch != 0;
    options.top_k = o->top_k != 0;
    auto* plan = new AttnPlan(plan_attention(*input, options));
    const auto count = [](const auto& v) { return static_cast<int32_t>(v.size()); };
    const auto& mma = plan->of(AttnKernel::kMma);
    const auto& decode = plan->of(AttnKernel::kDecode);
    const auto& wgmma = plan->of(AttnKernel::kWgmma);
    *result = {plan,
               mma.data(),
               decode.data(),
               wgmma.data(),
               plan->runs.data(),
               plan->rows.data(),
               plan->parts.data(),
               plan->top_rows.data(),
               plan->top_parts.data(),
               count(mma),
               count(decode),
               count(wgmma),
               count(plan->runs),
               count(plan->rows),
               count(plan->parts),
               count(plan->top_rows),
               count(plan->top_parts),
               plan->slots,
               plan->run_max_stride};
    return 0;
  } catch (const std::exception& error) {
    last_error = error.what();
    return 1;
  }
}

int32_t galvani_plan_probe(const QueryBlock* block, int32_t heads, int32_t token0, int32_t tokens, int32_t run0, int64_t base,
                           ProbeItem* items, int32_t most) {
  try {
    const std::vector<ProbeItem> made = plan_probe(*block, heads, token0, tokens, run0, base);
    std::copy_n(made.begin(), std::min(made.size(), static_cast<size_t>(std::max(most, 0))), items);
    return static_cast<int32_t>(made.size());
  } catch (const std::exception& error) {
    last_error = error.what();
    return -1;
  }
}

void galvani_plan_free(void* owner) { delete static_cast<AttnPlan*>(owner); }
const char* galvani_plan_error() { return last_error.c_str(); }

}  // namespace galvani::gpu
