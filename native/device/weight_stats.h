// delta_sums (ops/reduce.h) for weights that lie in device memory: the same numbers from the device's kernel, counts and
// maxima equal, sums equal up to the order of their float64 additions.
#pragma once
#include <vector>

#include "core/tensor.h"
#include "device/backend.h"
#include "ops/reduce.h"

namespace galvani {

// data: device memory, 16-byte aligned. A view of host memory belongs to delta_sums.
struct DeviceTensor {
  TensorView view;
};

// versions: 2 or 3. Waits for the result. No rows and columns (the CPU has them). SHAPE_MISMATCH when element counts
// differ; UNSUPPORTED for types the kernels do not widen (F64, the fnuz forms, F8_E8M0, integers), by name.
DeltaSums delta_sums(const gpu::Backend& device, const std::vector<DeviceTensor>& versions);

}  // namespace galvani
