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
#include "ops/gram.h"
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

// A matrix's versions on the host and on the device.
struct Versions {
  std::vector<std::vector<unsigned char>> bytes;
  std::vector<TensorView> views;
  std::vector<Resident> there;
  std::vector<DeviceTensor> tensors;
  std::vector<const TensorView*> host;

  Versions(const gpu::Backend& device, Random& random, const std::vector<DType>& types, std::vector<int64_t> shape,
           bool finite) {
    int64_t n = 1;
    for (const int64_t size : shape) n *= size;
    std::vector<float> before;
    for (const DType type : types) {
      bytes.push_back(stored(random, type, n, before));
      before.assign(static_cast<size_t>(n), 0.0f);
      widen(view_of(type, n, bytes.back().data()), 0, n, before.data());
      const auto size = static_cast<size_t>(dtype_size(type));
      for (int64_t i = 0; finite && i < n; ++i)
        if (!std::isfinite(before[static_cast<size_t>(i)]))
          std::memset(&bytes.back()[static_cast<size_t>(i) * size], 0, size);
      widen(view_of(type, n, bytes.back().data()), 0, n, before.data());
    }
    for (size_t v = 0; v < types.size(); ++v)
      views.push_back({types[v], shape, reinterpret_cast<const std::byte*>(bytes[v].data())});
    for (const TensorView& view : views) {
      host.push_back(&view);
      there.emplace_back(device, view);
      tensors.push_back(there.back().tensor());
    }
  }
  float at(size_t version, int64_t i) const {
    float value;
    widen(views[version], i, 1, &value);
    return value;
  }
};

bool near_all(const std::vector<double>& got, const std::vector<double>& want, int64_t n) {
  if (got.size() != want.size()) return false;
  for (size_t i = 0; i < got.size(); ++i)
    if (!near_sum(got[i], want[i], want[i], n)) return false;
  return true;
}

void masses(const gpu::Backend& device, Random& random, ThreadPool& pool, const std::vector<DType>& types,
            const std::vector<int64_t>& shape) {
  const Versions v(device, random, types, shape, false);
  const DeltaSums want = delta_sums(v.host, pool, true), got = delta_sums(device, v.tensors, true);
  const std::string what = "mass of " + shape_text(shape) + " " + dtype_name(types[0]);
  for (size_t s = 0; s + 1 < types.size(); ++s) {
    EXPECT(near_all(got.steps[s].rows, want.steps[s].rows, v.views[0].elements()), what + ": rows");
    EXPECT(near_all(got.steps[s].columns, want.steps[s].columns, v.views[0].elements()), what + ": columns");
    EXPECT(got.steps[s].rows.size() == (shape.size() < 2 ? 0u : static_cast<size_t>(shape[0])), what + ": count");
  }
}

void grams(const gpu::Backend& device, Random& random, ThreadPool& pool, const std::vector<DType>& types,
           int64_t rows, int64_t columns) {
  const Versions v(device, random, types, {rows, columns}, true);
  const std::string what = "gram of " + std::to_string(rows) + " × " + std::to_string(columns) + " " + dtype_name(types[0]);
  for (const bool update : {true, false}) {
    const MatrixSource source{rows, columns, [&](int64_t row, int64_t n, int64_t column, int64_t m, float* out) {
                                for (int64_t i = 0; i < n; ++i)
                                  for (int64_t j = 0; j < m; ++j) {
                                    const int64_t at = (row + i) * columns + column + j;
                                    out[i * m + j] = update ? v.at(1, at) - v.at(0, at) : v.at(1, at);
                                  }
                              }};
    const std::vector<double> want = gram(source, pool), got = gram(device, update ? &v.tensors[0] : nullptr, v.tensors[1]);
    const auto k = static_cast<size_t>(std::min(rows, columns));
    bool agree = got.size() == k * k, lower = true;
    for (size_t i = 0; agree && i < k; ++i)
      for (size_t j = 0; j < k; ++j) {
        // Cauchy–Schwarz bounds Σ|a b|
        const double size = std::sqrt(want[i * k + i] * want[j * k + j]);
        if (j >= i) agree = agree && near_sum(got[i * k + j], want[i * k + j], size, std::max(rows, columns));
        if (j < i) lower = lower && got[i * k + j] == 0;
      }
    EXPECT(agree, what + (update ? " of the update" : " of the weight"));
    EXPECT(lower, what + ": nothing below the diagonal");
  }
}

// Where a library is asked for (GALVANI_CUSOLVER): values, and projectors on leading vectors, which have no sign.
void eigens(const gpu::Backend& device, Random& random, ThreadPool& pool, int64_t rows, int64_t columns) {
  const Versions v(device, random, {DType::kBF16, DType::kBF16}, {rows, columns}, true);
  const std::string what = "eigenvalues of the Gram matrix of " + std::to_string(rows) + " × " + std::to_string(columns);
  const int64_t k = std::min(rows, columns), leading = std::min<int64_t>(k, 3);
  std::vector<double> g = gram(device, &v.tensors[0], v.tensors[1]);
  const SymmetricEigen want = symmetric_eigen(g, k, leading, pool);
  for (const int64_t count : {int64_t{0}, leading}) {
    const SymmetricEigen got = gram_eigen(device, &v.tensors[0], v.tensors[1], count);
    bool near = got.values.size() == static_cast<size_t>(k);
    for (size_t i = 0; near && i < got.values.size(); ++i)
      near = std::fabs(got.values[i] - want.values[i]) <= 1e-13 * static_cast<double>(k) * want.values[0];
    EXPECT(near, what);
    EXPECT(got.vectors.size() == static_cast<size_t>(count * k), what + ": as many vectors as wanted");
    for (int64_t i = 0; i < count; ++i) {
      double product = 0;
      for (int64_t j = 0; j < k; ++j)
        product += got.vectors[static_cast<size_t>(i * k + j)] * want.vectors[static_cast<size_t>(i * k + j)];
      EXPECT(std::fabs(std::fabs(product) - 1) < 1e-10, what + ": vector " + std::to_string(i));
    }
  }
}

void mixes(const gpu::Backend& device, Random& random, const std::vector<DType>& types, int64_t n, DType out_type) {
  const Versions v(device, random, types, {n}, true);
  const size_t m = types.size();
  const std::string what = "mix of " + std::to_string(m) + " × " + std::to_string(n) + " into " + dtype_name(out_type);
  const std::vector<double> dots = inner_products(device, v.tensors);
  std::vector<double> squares(m), factors(m);
  for (size_t i = 0; i < m; ++i)
    for (int64_t e = 0; e < n; ++e) squares[i] += static_cast<double>(v.at(i, e)) * static_cast<double>(v.at(i, e));
  for (size_t i = 0; i < m; ++i)
    for (size_t j = 0; j < m; ++j) {
      double want = 0;
      for (int64_t e = 0; e < n; ++e) want += static_cast<double>(v.at(i, e)) * static_cast<double>(v.at(j, e));
      EXPECT(near_sum(dots[i * m + j], want, std::sqrt(squares[i] * squares[j]), n), what + ": inner product");
    }
  for (double& factor : factors) factor = static_cast<double>(random.normal());
  const auto size = static_cast<size_t>(dtype_size(out_type));
  const DeviceArray<unsigned char> out(device, std::vector<unsigned char>(static_cast<size_t>(n) * size, 0xaa));
  weighted_sum(device, v.tensors, factors, {view_of(out_type, n, out.data())});
  const std::vector<unsigned char> got = out.read();
  int64_t wrong = 0;
  for (int64_t e = 0; e < n; ++e) {
    double sum = 0;
    for (size_t i = 0; i < m; ++i) {
      const double product = factors[i] * static_cast<double>(v.at(i, e));
      sum = i == 0 ? product : sum + product;
    }
    const auto value = static_cast<float>(sum);
    unsigned char want[4];
    const uint16_t bits = out_type == DType::kBF16 ? float_to_bf16(value) : float_to_f16(value);
    std::memcpy(want, out_type == DType::kF32 ? static_cast<const void*>(&value) : &bits, size);
    wrong += std::memcmp(want, &got[static_cast<size_t>(e) * size], size) != 0;
  }
  // A device may fuse multiply and add: the last bit of a float64 sum decides a rounding once in 2^29.
  EXPECT(wrong == 0, what + ": " + std::to_string(wrong) + " entries differ");
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
  throws(Code::kUnsupported, "got I64", [&] { gram(device, nullptr, at(DType::kI64, 4)); });
  throws(Code::kShapeMismatch, "[4], got [6]", [&] { inner_products(device, {at(DType::kF32, 4), at(DType::kF32, 6)}); });
  throws(Code::kInternal, "output of type 3; expected F32, F16 or BF16",
         [&] { weighted_sum(device, {at(DType::kF32, 4)}, {1.0}, at(DType::kF8E4M3, 4)); });
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
  for (const std::vector<int64_t>& shape : std::vector<std::vector<int64_t>>{{1, 1}, {7, 300}, {600, 3}, {5, 2, 3, 4}, {90}})
    masses(device, random, pool, {DType::kBF16, DType::kBF16, DType::kF32}, shape);
  for (const DType type : kTypes) masses(device, random, pool, {type, type}, {9, 70});
  for (const auto& [rows, columns] : std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {3, 70}, {70, 3}, {65, 65}, {130, 33}, {33, 150}})
    grams(device, random, pool, {DType::kBF16, DType::kBF16}, rows, columns);
  for (const DType type : kTypes) grams(device, random, pool, {type, DType::kF32}, 9, 20);
  if (*eigensolver(device).name)
    for (const auto& [rows, columns] : std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {3, 70}, {70, 3}, {33, 150}, {65, 65}})
      eigens(device, random, pool, rows, columns);
  for (size_t m = 1; m <= gpu::kMixMost; ++m)
    mixes(device, random, std::vector<DType>(m, DType::kBF16), 2049 + static_cast<int64_t>(m), DType::kBF16);
  mixes(device, random, {DType::kF32, DType::kF16}, 4099, DType::kF16);
  mixes(device, random, {DType::kF8E4M3, DType::kF8E5M2, DType::kBF16}, gpu::kDeltaChunk + 3, DType::kF32);
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
