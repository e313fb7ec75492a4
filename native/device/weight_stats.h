// What is known of weights (ops/reduce.h, ops/gram.h, ops/combine.h), for weights that lie in device memory: the same
// numbers from the device's kernels; counts and maxima equal, sums equal up to the order of their float64 additions.
//
// F32, F16, BF16, F8_E4M3 and F8_E5M2; other types are UNSUPPORTED by name, and belong to the CPU.
#pragma once
#include <vector>

#include "core/tensor.h"
#include "device/array.h"
#include "device/backend.h"
#include "ops/eigen.h"
#include "ops/reduce.h"

namespace galvani {

// data: device memory, 16-byte aligned. A view of host memory belongs to the CPU's functions of the same name.
struct DeviceTensor {
  TensorView view;
};

bool can_compare(DType dtype);

// A tensor copied to a device, as stored.
class Resident {
 public:
  Resident(const gpu::Backend& device, const TensorView& view);
  const DeviceTensor& tensor() const { return tensor_; }

 private:
  DeviceArray<unsigned char> bytes_;
  DeviceTensor tensor_;
};

// versions: 2 or 3. Waits for the result. mass: rows and columns too, in a second pass over each step's bytes.
// SHAPE_MISMATCH when element counts differ.
DeltaSums delta_sums(const gpu::Backend& device, const std::vector<DeviceTensor>& versions, bool mass = false);

// gram (ops/gram.h) of after − before, shape[0] × the rest; of `after` itself where before is null.
std::vector<double> gram(const gpu::Backend& device, const DeviceTensor* before, const DeviceTensor& after);

// Whose eigensolver symmetric_eigen below is (ops/gpu/cusolver.h); the name is empty where none is asked for. UNSUPPORTED when it is
// asked for and unusable.
gpu::EigenStatus eigensolver(const gpu::Backend& device);

// galvani::symmetric_eigen (ops/eigen.h) of such a Gram matrix without taking it off the device: only values and the leading
// vectors come back. 16k² bytes and the library's workspace on the device. UNSUPPORTED where it does not converge.
SymmetricEigen gram_eigen(const gpu::Backend& device, const DeviceTensor* before, const DeviceTensor& after,
                          int64_t leading);

// (m, m) inner products of 1 to 8 tensors, symmetric.
std::vector<double> inner_products(const gpu::Backend& device, const std::vector<DeviceTensor>& inputs);

// out = Σ factors[i] · inputs[i] in float64, rounded to float32 and then to out's type (F32, F16, BF16).
void weighted_sum(const gpu::Backend& device, const std::vector<DeviceTensor>& inputs,
                  const std::vector<double>& factors, const DeviceTensor& out);

}  // namespace galvani
