#include "device/weight_stats.h"

#include <algorithm>
#include <optional>

#include "core/status.h"

namespace galvani {
namespace {

std::optional<gpu::WeightType> known_type(DType dtype) {
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
      return std::nullopt;
  }
}
gpu::WeightType weight_type(DType dtype) {
  if (const auto type = known_type(dtype)) return *type;
  throw Error(Code::kUnsupported,
              std::string("weights on a device: expected F32, F16, BF16, F8_E4M3 or F8_E5M2, got ") + dtype_name(dtype) +
                  "; the CPU reads it");
}

int64_t same_elements(const std::vector<DeviceTensor>& tensors) {
  const TensorView& first = tensors[0].view;
  for (const DeviceTensor& tensor : tensors)
    if (tensor.view.elements() != first.elements())
      throw Error(Code::kShapeMismatch,
                  "expected shape " + shape_text(first.shape) + ", got " + shape_text(tensor.view.shape));
  return first.elements();
}

// Rows × the rest.
struct Sides {
  int64_t rows, columns;
  explicit Sides(const TensorView& view)
      : rows(view.shape.empty() ? 1 : view.shape[0]), columns(rows ? view.elements() / rows : 0) {}
};

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

bool can_compare(DType dtype) { return known_type(dtype).has_value(); }

Resident::Resident(const gpu::Backend& device, const TensorView& view)
    : bytes_(device, std::max<int64_t>(1, view.elements() * dtype_size(view.dtype))), tensor_{view} {
  const int64_t bytes = view.elements() * dtype_size(view.dtype);
  if (bytes > 0) check_device(device, device.copy_in(bytes_.data(), view.data, bytes, nullptr), "copy_in");
  tensor_.view.data = reinterpret_cast<const std::byte*>(bytes_.data());
}

DeltaSums delta_sums(const gpu::Backend& device, const std::vector<DeviceTensor>& versions, bool mass) {
  GALVANI_CHECK(versions.size() == 2 || versions.size() == 3);
  const int64_t elements = same_elements(versions);
  const size_t steps = versions.size() - 1;
  gpu::WeightDeltaParams p{};
  gpu::WeightMassParams m{};
  p.count = m.count = static_cast<int32_t>(versions.size());
  p.elements = elements;
  for (size_t v = 0; v < versions.size(); ++v) {
    p.versions[v] = m.versions[v] = versions[v].view.data;
    p.types[v] = m.types[v] = weight_type(versions[v].view.dtype);
  }
  DeltaSums sums;
  if (elements > 0) {
    const DeviceArray<gpu::DeltaTotals> partial(device, (elements + gpu::kDeltaChunk - 1) / gpu::kDeltaChunk);
    const DeviceArray<gpu::DeltaTotals> totals(device, 1);
    p.partial = partial.data();
    p.totals = totals.data();
    check_device(device, device.weight_delta(&p, nullptr), "weight_delta");
    sums = as_sums(totals.read()[0], elements, steps);
  }
  if (!mass || versions[0].view.shape.size() < 2) return sums;
  const Sides sides(versions[0].view);
  const DeviceArray<double> partial(
      device, std::max<int64_t>(1, (sides.rows + gpu::kMassBand - 1) / gpu::kMassBand * sides.columns));
  const DeviceArray<double> rows(device, std::max<int64_t>(1, sides.rows));
  const DeviceArray<double> columns(device, std::max<int64_t>(1, sides.columns));
  m.rows = sides.rows;
  m.columns = sides.columns;
  m.partial = partial.data();
  m.row_squares = rows.data();
  m.column_squares = columns.data();
  for (size_t s = 0; s < steps; ++s) {
    m.step = static_cast<int32_t>(s);
    check_device(device, device.weight_mass(&m, nullptr), "weight_mass");
    sums.steps[s].rows = rows.read();
    sums.steps[s].columns = columns.read();
    sums.steps[s].rows.resize(static_cast<size_t>(sides.rows));
    sums.steps[s].columns.resize(static_cast<size_t>(sides.columns));
  }
  return sums;
}

namespace {

// (k, k) upper triangle and diagonal, zero below.
DeviceArray<double> gram_there(const gpu::Backend& device, const DeviceTensor* before, const DeviceTensor& after) {
  const Sides sides(after.view);
  const int64_t small = std::min(sides.rows, sides.columns);
  if (before) same_elements({*before, after});
  gpu::WeightGramParams p{};
  p.after = after.view.data;
  p.after_type = weight_type(after.view.dtype);
  if (before) {
    p.before = before->view.data;
    p.before_type = weight_type(before->view.dtype);
  }
  p.rows = sides.rows;
  p.columns = sides.columns;
  DeviceArray<double> out(device, small * small);
  if (small == 0) return out;
  check_device(device, device.fill(out.data(), 0, out.bytes(), nullptr), "fill");
  p.gram = out.data();
  check_device(device, device.weight_gram(&p, nullptr), "weight_gram");
  return out;
}

}  // namespace

std::vector<double> gram(const gpu::Backend& device, const DeviceTensor* before, const DeviceTensor& after) {
  return gram_there(device, before, after).read();
}

gpu::EigenStatus eigensolver(const gpu::Backend& device) {
  gpu::EigenStatus status{};
  check_device(device, device.eigen_status(&status), "eigen_status");
  if (*status.problem) throw Error(Code::kUnsupported, status.problem);
  return status;
}

SymmetricEigen gram_eigen(const gpu::Backend& device, const DeviceTensor* before, const DeviceTensor& after,
                          int64_t leading) {
  const DeviceArray<double> matrix = gram_there(device, before, after);
  const Sides sides(after.view);
  SymmetricEigen out;
  gpu::EigenParams p{};
  p.k = std::min(sides.rows, sides.columns);
  if (p.k == 0) return out;
  const DeviceArray<double> values(device, p.k);
  const DeviceArray<int32_t> info(device, 1);
  p.matrix = matrix.data();
  p.values = values.data();
  p.info = info.data();
  p.vectors = leading > 0;
  const auto check = [&](int code) {
    if (code != 0) throw Error(Code::kUnsupported, device.last_error());
  };
  check(device.eigen_workspace(&p));
  const DeviceArray<unsigned char> workspace(device, std::max<int64_t>(1, p.workspace_bytes));
  std::vector<double> host(static_cast<size_t>(p.host_workspace_bytes) / sizeof(double) + 1);
  p.workspace = workspace.data();
  p.host_workspace = host.data();
  check(device.eigen(&p, nullptr));
  const int32_t failures = info.read()[0];  // waits
  if (failures != 0)
    throw Error(Code::kUnsupported, std::string(eigensolver(device).name) + ", Gram matrix of side " + std::to_string(p.k) +
                                        ": did not converge, info = " + std::to_string(failures));
  const std::vector<double> ascending = values.read();
  out.values.assign(ascending.rbegin(), ascending.rend());
  leading = std::min(leading, p.k);
  out.vectors.resize(static_cast<size_t>(leading * p.k));
  for (int64_t i = 0; i < leading; ++i)
    check_device(device, device.copy_out(out.vectors.data() + i * p.k, matrix.data() + (p.k - 1 - i) * p.k,
                                         p.k * static_cast<int64_t>(sizeof(double)), nullptr), "copy_out");
  check_device(device, device.sync(nullptr), "sync");
  return out;
}

std::vector<double> inner_products(const gpu::Backend& device, const std::vector<DeviceTensor>& inputs) {
  const auto m = static_cast<int64_t>(inputs.size());
  GALVANI_CHECK(m >= 1 && m <= gpu::kMixMost);
  gpu::WeightDotsParams p{};
  p.count = static_cast<int32_t>(m);
  p.elements = same_elements(inputs);
  for (size_t i = 0; i < inputs.size(); ++i) {
    p.inputs[i] = inputs[i].view.data;
    p.types[i] = weight_type(inputs[i].view.dtype);
  }
  const int64_t pairs = m * (m + 1) / 2, blocks = (p.elements + gpu::kDeltaChunk - 1) / gpu::kDeltaChunk;
  const DeviceArray<double> partial(device, std::max<int64_t>(1, blocks * pairs)), dots(device, pairs);
  p.partial = partial.data();
  p.dots = dots.data();
  check_device(device, device.weight_dots(&p, nullptr), "weight_dots");
  const std::vector<double> found = dots.read();
  std::vector<double> out(static_cast<size_t>(m * m));
  size_t pair = 0;
  for (size_t i = 0; i < inputs.size(); ++i)
    for (size_t j = i; j < inputs.size(); ++j, ++pair)
      out[i * inputs.size() + j] = out[j * inputs.size() + i] = found[pair];
  return out;
}

void weighted_sum(const gpu::Backend& device, const std::vector<DeviceTensor>& inputs,
                  const std::vector<double>& factors, const DeviceTensor& out) {
  GALVANI_CHECK(!inputs.empty() && inputs.size() <= gpu::kMixMost && inputs.size() == factors.size());
  gpu::WeightSumParams p{};
  p.count = static_cast<int32_t>(inputs.size());
  p.elements = same_elements(inputs);
  if (out.view.elements() != p.elements) same_elements({inputs[0], out});
  for (size_t i = 0; i < inputs.size(); ++i) {
    p.inputs[i] = inputs[i].view.data;
    p.types[i] = weight_type(inputs[i].view.dtype);
    p.factors[i] = factors[i];
  }
  p.out = const_cast<std::byte*>(out.view.data);
  p.out_type = weight_type(out.view.dtype);
  check_device(device, device.weight_sum(&p, nullptr), "weight_sum");
  check_device(device, device.sync(nullptr), "sync");
}

}  // namespace galvani
