#include "ops/spectrum.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/status.h"
#include "ops/dense_kernels.h"
#include "ops/eigen.h"
#include "ops/lapack.h"

namespace galvani {
namespace {

constexpr double kEpsilon = std::numeric_limits<double>::epsilon();
constexpr int64_t kDirectSide = 160, kDirectEntries = int64_t{1} << 24;

void require_finite(const std::vector<double>& values) {
  for (const double value : values)
    if (!std::isfinite(value))
      throw Error(Code::kBadFile, "singular values of a matrix with entries that are not finite");
}

}  // namespace

Spectrum spectrum(const MatrixSource& a, SpectrumMethod method, int64_t leading, ThreadPool& pool, const Poll& poll) {
  const int64_t k = a.small_side(), length = a.long_side();
  Spectrum out;
  if (k == 0) return out;
  leading = std::clamp<int64_t>(leading, 0, k);
  if (method == SpectrumMethod::kAuto)
    method = k <= kDirectSide && k * length <= kDirectEntries ? SpectrumMethod::kDirect : SpectrumMethod::kGram;
  out.method = method;
  if (method == SpectrumMethod::kTop) {
    Leading top = galvani::leading(a, leading, {}, pool, poll);
    out.leading = top.count;
    out.values = std::move(top.values);
    out.bounds = std::move(top.bounds);
    out.left = std::move(top.left);
    out.right = std::move(top.right);
    require_finite(out.values);
    return out;
  }
  std::vector<double> small;  // (leading, k)
  if (method == SpectrumMethod::kDirect) {
    std::vector<double> columns(static_cast<size_t>(k * length));  // k columns of `length`
    std::vector<float> block(static_cast<size_t>(length));
    for (int64_t i = 0; i < k; ++i) {
      if (a.rows <= a.columns)
        a.block(i, 1, 0, length, block.data());
      else
        a.block(0, length, i, 1, block.data());
      std::copy(block.begin(), block.end(), columns.begin() + i * length);
    }
    if (poll) poll();
    JacobiResult result = jacobi_svd(columns, length, k, leading > 0, pool);
    out.values = std::move(result.values);
    out.resolution = 8 * static_cast<double>(k) * kEpsilon * out.values[0];
    small.assign(result.right.begin(), result.right.begin() + (leading > 0 ? leading * k : 0));
  } else if (a.eigen_there) {
    if (poll) poll();
    SymmetricEigen eigen = a.eigen_there(leading);
    out.values = std::move(eigen.values);
    small = std::move(eigen.vectors);
  } else {
    const bool by_lapack = lapack::in_use();  // before the Gram matrix: it may throw
    std::vector<double> g = gram(a, pool, poll);
    require_finite(g);  // LAPACK need not come back from a NaN
    SymmetricEigen eigen = by_lapack ? lapack::symmetric_eigen(g, k, leading)
                                     : symmetric_eigen(g, k, leading, pool, poll);
    out.values = std::move(eigen.values);
    small = std::move(eigen.vectors);
  }
  if (method == SpectrumMethod::kGram) {
    for (double& value : out.values) value = value > 0 ? std::sqrt(value) : 0.0;
    out.resolution = std::sqrt(static_cast<double>(k) * kEpsilon) * out.values[0];
  }
  require_finite(out.values);
  for (double& value : out.values)
    if (value < out.resolution) value = 0;

  const double usable = std::max(10 * out.resolution, 1e-6 * out.values[0]);
  while (out.leading < leading && out.values[static_cast<size_t>(out.leading)] > 0 &&
         out.values[static_cast<size_t>(out.leading)] >= usable)
    ++out.leading;
  if (out.leading > 0) {
    small.resize(static_cast<size_t>(out.leading * k));
    std::vector<double> other = long_side_vectors(a, small, out.values, out.leading, pool, poll);
    out.left = a.rows <= a.columns ? std::move(small) : std::move(other);
    out.right = a.rows <= a.columns ? std::move(other) : std::move(small);
  }
  return out;
}

namespace {

std::optional<double> log_volume(const std::vector<double>& values, int64_t top) {
  const auto count = static_cast<size_t>(std::min<int64_t>(top, static_cast<int64_t>(values.size())));
  if (count == 0 || !(values[count - 1] > 0)) return std::nullopt;
  double volume = 0;
  for (size_t i = 0; i < count; ++i) volume += std::log(values[i]);
  return volume;
}

}  // namespace

SpectrumMeasures measure_leading(const std::vector<double>& values, double square, int64_t top) {
  SpectrumMeasures out;
  out.frobenius_norm = std::sqrt(square);
  out.resolved = static_cast<int64_t>(values.size());
  if (values.empty()) return out;
  out.spectral_norm = values[0];
  out.stable_rank = square / values[0] / values[0];
  if (static_cast<int64_t>(values.size()) >= top) out.log_volume = log_volume(values, top);
  return out;
}

SpectrumMeasures measure(const LanczosEstimate& estimate, int64_t k) {
  SpectrumMeasures out;
  const double largest = estimate.largest, size = static_cast<double>(k);
  if (!(largest > 0)) return out;
  double sum = 0, square = 0, fourth = 0, entropy = 0;  // of σ/σ1
  for (size_t i = 0; i < estimate.nodes.size(); ++i) {
    const double value = estimate.nodes[i] / largest, count = size * estimate.shares[i];
    sum += count * value;
    square += count * value * value;
    fourth += count * value * value * value * value;
  }
  for (size_t i = 0; i < estimate.nodes.size(); ++i) {
    const double p = estimate.nodes[i] / largest / sum;
    if (p > 0) entropy -= size * estimate.shares[i] * p * std::log(p);
  }
  out.spectral_norm = largest;
  out.nuclear_norm = largest * sum;
  out.frobenius_norm = largest * std::sqrt(square);
  out.resolved = k;
  out.stable_rank = square;
  out.participation_ratio = square * square / fourth;
  out.effective_rank = std::exp(entropy);
  return out;
}

SpectrumMeasures measure(const std::vector<double>& values, int64_t top) {
  SpectrumMeasures out;
  double square = 0, fourth = 0, sum = 0;  // of σ/σ1: σ⁴ itself would underflow for small updates
  const double scale = values.empty() || values[0] == 0 ? 1 : values[0];
  for (const double value : values) {
    if (value > 0) ++out.resolved;
    sum += value;
    const double share = value / scale * (value / scale);
    square += share;
    fourth += share * share;
  }
  out.frobenius_norm = scale * std::sqrt(square);
  out.nuclear_norm = sum;
  if (out.resolved == 0) return out;
  out.spectral_norm = values[0];
  out.stable_rank = square;
  out.participation_ratio = square * square / fourth;
  double entropy = 0;
  for (const double value : values) {
    const double p = value / sum;
    if (p > 0) entropy -= p * std::log(p);
  }
  out.effective_rank = std::exp(entropy);
  if (values.back() > 0) out.condition_number = values[0] / values.back();
  out.log_volume = log_volume(values, top);
  return out;
}

std::vector<double> principal_cosines(const std::vector<double>& a, int64_t p, const std::vector<double>& b, int64_t q,
                                      int64_t n, ThreadPool& pool) {
  if (p == 0 || q == 0) return {};
  if (p > q) return principal_cosines(b, q, a, p, n, pool);
  const DenseKernels& kernels = dense_kernels();
  std::vector<double> products(static_cast<size_t>(p * q));  // p columns of q
  for (int64_t i = 0; i < p; ++i)
    for (int64_t j = 0; j < q; ++j)
      products[static_cast<size_t>(i * q + j)] = kernels.dot(a.data() + i * n, b.data() + j * n, n);
  std::vector<double> cosines = jacobi_svd(products, q, p, false, pool).values;
  for (double& cosine : cosines) cosine = std::min(cosine, 1.0);
  return cosines;
}

}  // namespace galvani
