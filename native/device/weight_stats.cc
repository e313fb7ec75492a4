#include "device/weight_stats.h"

#include <algorithm>

#include "core/status.h"
#include "device/array.h"

namespace galvani {
namespace {

gpu::WeightType weight_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return gpu::WeightType::kF32;
    case DType::kF16:
      return gpu::WeightType::kF16;
    case DType::kBF16:
      return gpu::WeightType::kBF16;
    case DType::kF8E4M3:
      return gpu::WeightType::kF8E4M3;
    case DType::kF8E5M2:
      return gpu::WeightType::kF8E5M2;
    default:
      throw Error(Code::kUnsupported, std::string("weight statistics on a device: expected F32, F16, BF16, F8_E4M3 or F8_E5M2, got ") +
                                          dtype_name(dtype) + "; compare it on the CPU");
  }
}

static_assert(kUlpBins == gpu::kDeltaUlpBins);

DeltaSums as_sums(const gpu::DeltaTotals& totals, int64_t elements, size_t steps) {
  DeltaSums sums;
  sums.non_finite = totals.counts.non_finite;
  sums.elements = elements - sums.non_finite;
  std::copy_n(totals.weight_square, 3, sums.weight_square);
  sums.dot = totals.dot;
  sums.same_sign = totals.counts.same_sign;
  sums.opposite_sign = totals.counts.opposite_sign;
  for (size_t s = 0; s < steps; ++s) {
    StepSums& step = sums.steps[s];
    step.sum = totals.steps[s].sum;
    step.square = totals.steps[s].square;
    step.cube = totals.steps[s].cube;
    step.fourth = totals.steps[s].fourth;
    step.max_abs = totals.max_abs[s];
    step.identical = totals.counts.steps[s].identical;
    step.zero = totals.counts.steps[s].zero;
    std::copy_n(totals.counts.steps[s].ulps, kUlpBins, step.ulps.begin());
  }
  return sums;
}

}  // namespace

DeltaSums delta_sums(const gpu::Backend& device, const std::vector<DeviceTensor>& versions) {
  GALVANI_CHECK(versions.size() == 2 || versions.size() == 3);
  const int64_t elements = versions[0].view.elements();
  gpu::WeightDeltaParams p{};
  p.count = static_cast<int32_t>(versions.size());
  p.elements = elements;
  for (size_t v = 0; v < versions.size(); ++v) {
    const TensorView& view = versions[v].view;
    if (view.elements() != elements)
      throw Error(Code::kShapeMismatch,
                  "expected shape " + shape_text(versions[0].view.shape) + ", got " + shape_text(view.shape));
    p.versions[v] = view.data;
    p.types[v] = weight_type(view.dtype);
  }
  if (elements == 0) return {};
  const DeviceArray<gpu::DeltaTotals> partial(device, (elements + gpu::kDeltaChunk - 1) / gpu::kDeltaChunk);
  const DeviceArray<gpu::DeltaTotals> totals(device, 1);
  p.partial = partial.data();
  p.totals = totals.data();
  check_device(device, device.weight_delta(&p, nullptr), "weight_delta");
  return as_sums(totals.read()[0], elements, versions.size() - 1);
}

}  // namespace galvani
