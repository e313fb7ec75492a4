#include "ops/spectrum.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/status.h"
#include "ops/dense_kernels.h"
#include "ops/eigen.h"

namespace galvani {
namespace {

constexpr double kEpsilon = std::numeric_limits<double>::epsilon();
constexpr int64_t kDirectSide = 160, kDirectEntries = int64_t{1} << 24;

// The small side's vectors become the long side's by one more pass over the matrix: y_i = A x_i / σ_i (or Aᵀ x_i).
std::vector<double> long_side_vectors(const MatrixSource& a, const std::vector<double>& small,
                                      const std::vector<double>& values, int64_t leading, ThreadPool& pool,
                                      const Poll& poll) {
  const int64_t k = a.small_side(), length = a.long_side(), strip = 64;
  std::vector<double> out(static_cast<size_t>(leading * length));
  if (poll) poll();
  pool.run((length + strip - 1) / strip, [&](int64_t task) {
    const int64_t begin = task * strip, count = std::min(strip, length - begin);
    std::vector<float> block(static_cast<size_t>(count * k));
    if (a.rows <= a.columns)
      a.block(0, k, begin, count, block.data());  // (k, count)
    else
      a.block(begin, count, 0, k, block.data());  // (count, k)
    std::vector<double> sums(static_cast<size_t>(count));
    for (int64_t index = 0; index < leading; ++index) {
      const double* x = small.data() + index * k;
      std::fill(sums.begin(), sums.end(), 0.0);
      if (a.rows <= a.columns) {
        for (int64_t i = 0; i < k; ++i)
          for (int64_t p = 0; p < count; ++p)
            sums[static_cast<size_t>(p)] += x[i] * static_cast<double>(block[static_cast<size_t>(i * count + p)]);
      } else {
        for (int64_t p = 0; p < count; ++p)
          for (int64_t i = 0; i < k; ++i)
            sums[static_cast<size_t>(p)] += x[i] * static_cast<double>(block[static_cast<size_t>(p * k + i)]);
      }
      for (int64_t p = 0; p < count; ++p)
        out[static_cast<size_t>(index * length + begin + p)] =
            sums[static_cast<size_t>(p)] / values[static_cast<size_t>(index)];
    }
  });
  // Nearly orthonormal already; the second Gram–Schmidt pass removes what the division by σ magnified.
  const DenseKernels& kernels = dense_kernels();
  for (int64_t index = 0; index < leading; ++index) {
    double* x = out.data() + index * length;
    for (int64_t other = 0; other < index; ++other)
      kernels.axpy(-kernels.dot(x, out.data() + other * length, length), out.data() + other * length, x, length);
    const double norm = std::sqrt(kernels.dot(x, x, length));
    for (int64_t i = 0; i < length; ++i) x[i] /= norm;
  }
  return out;
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
  } else {
    std::vector<double> g = gram(a, pool, poll);
    SymmetricEigen eigen = symmetric_eigen(g, k, leading, pool, poll);
    out.values = std::move(eigen.values);
    for (double& value : out.values) value = value > 0 ? std::sqrt(value) : 0.0;
    out.resolution = std::sqrt(static_cast<double>(k) * kEpsilon) * out.values[0];
    small = std::move(eigen.vectors);
  }
  for (const double value : out.values)
    if (!std::isfinite(value))
      throw Error(Code::kBadFile, "singular values of a matrix with entries that are not finite");
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

SpectrumMeasures measure(const std::vector<double>& values, int64_t top) {
  SpectrumMeasures out;
  double square = 0;
  for (const double value : values) {
    if (value > 0) ++out.resolved;
    out.nuclear_norm += value;
    square += value * value;
  }
  out.frobenius_norm = std::sqrt(square);
  if (out.resolved == 0) return out;
  out.spectral_norm = values[0];
  out.stable_rank = square / (values[0] * values[0]);
  double entropy = 0;
  for (const double value : values) {
    const double p = value / out.nuclear_norm;
    if (p > 0) entropy -= p * std::log(p);
  }
  out.effective_rank = std::exp(entropy);
  if (values.back() > 0) out.condition_number = values[0] / values.back();
  const auto count = static_cast<size_t>(std::min<int64_t>(top, static_cast<int64_t>(values.size())));
  if (count > 0 && values[count - 1] > 0) {
    double volume = 0;
    for (size_t i = 0; i < count; ++i) volume += std::log(values[i]);
    out.log_volume = volume;
  }
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
