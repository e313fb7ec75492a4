// The GPU's weight kernels through the backend's table, against the CPU's delta_sums, which its own tests hold against
// float64 and numpy. Counts and maxima must be equal; sums have exact summands and differ by float64 rounding only.
//
//   weights_test                      emulated, under several schedules
//   weights_test path/to/backend.so   on that device
#include <cstring>
#include <limits>

#include "core/dtype.h"
#include "core/testing.h"
#include "device/array.h"
#include "device/load.h"
#include "device/weight_stats.h"
#include "ops/gpu/emu.h"
#include "ops/widen.h"

namespace galvani {
namespace {

using testing::Random;

// Most entries equal those of `before`, as after an update; any bit pattern may occur in the eight-bit types.
std::vector<unsigned char> stored(Random& random, DType dtype, int64_t count, const std::vector<float>& before) {
  std::vector<unsigned char> out(static_cast<size_t>(count * dtype_size(dtype)));
  for (int64_t i = 0; i < count; ++i) {
    float value = before.empty() ? 0.02f * random.normal() : before[static_cast<size_t>(i)];
    const int64_t kind = random.below(16);
    if (kind == 0) value = 0.0f;
    if (kind == 1) value = -0.0f;
    if (kind == 2) value = 1e-41f;  // subnormal
    if (kind >= 3 && kind < 9 && !before.empty()) value += 1e-4f * random.normal();
    if (random.below(200) == 0) value = random.below(2) ? std::numeric_limits<float>::quiet_NaN() : INFINITY;
    if (dtype == DType::kF32) {
      std::memcpy(&out[static_cast<size_t>(4 * i)], &value, 4);
    } else if (dtype == DType::kBF16 || dtype == DType::kF16) {
      const uint16_t bits = dtype == DType::kBF16 ? float_to_bf16(value) : float_to_f16(value);
      std::memcpy(&out[static_cast<size_t>(2 * i)], &bits, 2);
    } else {
      out[static_cast<size_t>(i)] = static_cast<unsigned char>(random.below(256));
    }
  }
  return out;
}

TensorView view_of(DType dtype, int64_t count, const void* data) {
  return {dtype, {count}, static_cast<const std::byte*>(data)};
}

// n summands of mixed sign: n · 2^−53 of Σ|summand|, which `size` bounds.
bool near_sum(double got, double want, double size, int64_t n) {
  return std::fabs(got - want) <= static_cast<double>(n) * 0x1p-53 * size;
}

void compare(const gpu::Backend& device, Random& random, ThreadPool& pool, const std::vector<DType>& types, int64_t n) {
  std::string what = std::to_string(n) + " elements";
  for (const DType type : types) what += std::string(" ") + dtype_name(type);
  std::vector<std::vector<unsigned char>> bytes;
  std::vector<DeviceArray<unsigned char>> arrays;
  std::vector<TensorView> views;
  std::vector<const TensorView*> host;
  std::vector<DeviceTensor> resident;
  std::vector<float> before;
  for (const DType type : types) {
    bytes.push_back(stored(random, type, n, before));
    arrays.emplace_back(device, bytes.back());
    resident.push_back({view_of(type, n, arrays.back().data())});
    before.assign(static_cast<size_t>(n), 0.0f);
    widen(view_of(type, n, bytes.back().data()), 0, n, before.data());
  }
  for (size_t v = 0; v < types.size(); ++v) views.push_back(view_of(types[v], n, bytes[v].data()));
  for (const TensorView& view : views) host.push_back(&view);

  const DeltaSums want = delta_sums(host, pool), got = delta_sums(device, resident);
  EXPECT(got.elements == want.elements && got.non_finite == want.non_finite, what + ": finite entries");
  EXPECT(got.same_sign == want.same_sign && got.opposite_sign == want.opposite_sign, what + ": signs");
  for (size_t v = 0; v < types.size(); ++v)
    EXPECT(near_sum(got.weight_square[v], want.weight_square[v], want.weight_square[v], n), what + ": weights");
  for (size_t s = 0; s + 1 < types.size(); ++s) {
    const StepSums &a = got.steps[s], &b = want.steps[s];
    const std::string step = what + " step " + std::to_string(s);
    EXPECT(a.max_abs == b.max_abs, step + ": largest");
    EXPECT(a.identical == b.identical, step + ": identical");
    EXPECT(a.zero == b.zero, step + ": zero");
    EXPECT(a.ulps == b.ulps, step + ": histogram");
    EXPECT(a.below_half_ulp() == b.below_half_ulp(), step + ": below half an ulp");
    // Cauchy–Schwarz: Σ|Δ| ≤ √(n ΣΔ²), Σ|Δ³| ≤ √(ΣΔ² ΣΔ⁴)
    EXPECT(near_sum(a.sum, b.sum, std::sqrt(static_cast<double>(n) * b.square), n), step + ": sum");
    EXPECT(near_sum(a.square, b.square, b.square, n), step + ": square");
    EXPECT(near_sum(a.cube, b.cube, std::sqrt(b.square * b.fourth), n), step + ": cube");
    EXPECT(near_sum(a.fourth, b.fourth, b.fourth, n), step + ": fourth");
  }
  if (types.size() == 3)
    EXPECT(near_sum(got.dot, want.dot, std::sqrt(want.steps[0].square * want.steps[1].square), n), what + ": dot");

  const DeltaSums again = delta_sums(device, resident);
  EXPECT(std::memcmp(&again.steps[0].sum, &got.steps[0].sum, 4 * sizeof(double)) == 0 && again.dot == got.dot,
         what + ": the same launch gives the same bits");
}

template <class Body>
void throws(Code code, const char* message, Body&& body) {
  try {
    body();
    EXPECT(false, std::string("expected '") + message + "'");
  } catch (const Error& error) {
    EXPECT(error.code() == code && std::strstr(error.what(), message), std::string(error.what()));
  }
}

void refusals(const gpu::Backend& device) {
  const DeviceArray<unsigned char> memory(device, std::vector<unsigned char>(256));
  const auto at = [&](DType dtype, int64_t n, int64_t offset = 0) {
    return DeviceTensor{view_of(dtype, n, memory.data() + offset)};
  };
  throws(Code::kUnsupported, "got F64", [&] { delta_sums(device, {at(DType::kF64, 4), at(DType::kF32, 4)}); });
  throws(Code::kUnsupported, "got I32", [&] { delta_sums(device, {at(DType::kF32, 4), at(DType::kI32, 4)}); });
  throws(Code::kShapeMismatch, "[4], got [5]", [&] { delta_sums(device, {at(DType::kF32, 4), at(DType::kF32, 5)}); });
  throws(Code::kInternal, "version 1 is not 16-byte aligned",
         [&] { delta_sums(device, {at(DType::kF32, 4), at(DType::kF32, 4, 4)}); });
  EXPECT(delta_sums(device, {at(DType::kF32, 0), at(DType::kF32, 0)}).elements == 0, "nothing to compare");
}

void everything(const gpu::Backend& device, uint64_t seed) {
  Random random(seed);
  ThreadPool pool(2);
  constexpr DType kTypes[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kF8E4M3, DType::kF8E5M2};
  for (const DType type : kTypes)
    for (const int64_t n : {1, 7, 8, 2049, 2055}) {
      compare(device, random, pool, {type, type}, n);
      compare(device, random, pool, {type, type, type}, n);
    }
  compare(device, random, pool, {DType::kBF16, DType::kF32, DType::kF8E4M3}, 3001);
  compare(device, random, pool, {DType::kBF16, DType::kBF16, DType::kBF16}, 3 * gpu::kDeltaChunk + 12'345);
  refusals(device);
}

}  // namespace
}  // namespace galvani

int main(int count, char** arguments) {
  using namespace galvani;
  if (count > 1) {
    const GpuStatus status = probe_gpu(arguments[1]);
    std::printf("%s\n", status.reason.c_str());
    if (!status.backend) return 1;
    everything(*status.backend, 1);
    return testing::report();
  }
  for (uint64_t schedule = 0; schedule < 4; ++schedule) {
    gpu::emu::set_schedule(schedule);
    everything(*gpu::galvani_backend(gpu::kBackendAbi), 100 + schedule);
  }
  return testing::report();
}
