// Interpolation on the sphere. Whatever these methods do stays in the span of the inputs, so it is done on coefficients
// and the (m, m) inner products: one pass for the products, one for the weighted sum, however often a mean is iterated.
#include <algorithm>
#include <cmath>

#include "ops/combine_kernels.h"
#include "ops/combine_passes.h"

namespace galvani {
namespace {

using Coefficients = std::vector<double>;

// ⟨Σ a_i x_i, Σ b_j x_j⟩
double inner(const Coefficients& a, const Coefficients& b, const std::vector<double>& g) {
  const size_t m = a.size();
  double sum = 0;
  for (size_t i = 0; i < m; ++i)
    for (size_t j = 0; j < m; ++j) sum += a[i] * b[j] * g[i * m + j];
  return sum;
}
double norm(const Coefficients& a, const std::vector<double>& g) { return std::sqrt(std::max(0.0, inner(a, a, g))); }

struct Pair {
  double first, second;
};

// Factors of slerp(t) between two vectors (Shoemake 1985): linear where they are nearly parallel or opposite.
Pair slerp_factors(double t, double aa, double ab, double bb) {
  constexpr double kTiny = 1e-8, kLinear = 0.9995;
  const double na = std::sqrt(aa), nb = std::sqrt(bb);
  const double cosine = std::clamp(ab / ((na > kTiny ? na : 1.0) * (nb > kTiny ? nb : 1.0)), -1.0, 1.0);
  if (std::fabs(cosine) > kLinear) return {1 - t, t};
  const double theta = std::acos(cosine);
  return {std::sin((1 - t) * theta) / std::sin(theta), std::sin(t * theta) / std::sin(theta)};
}

void slerp(Passes& passes) {
  const CombineJob& job = passes.job();
  if (job.base < 0 || job.inputs.size() != 2) bad_merge(job, "expected a base and one other model");
  const CombineKernels& kernels = combine_kernels();
  const std::vector<double> lanes = passes.sums(3 * kSumLanes, [&](const Tile& tile, double* sums) {
    kernels.dot(tile.base, tile.base, tile.count, sums);
    kernels.dot(tile.base, tile.rest[0], tile.count, sums + kSumLanes);
    kernels.dot(tile.rest[0], tile.rest[0], tile.count, sums + 2 * kSumLanes);
  });
  const Pair pair = slerp_factors(passes.shared("t"), lane_sum(lanes.data()), lane_sum(lanes.data() + kSumLanes),
                                  lane_sum(lanes.data() + 2 * kSumLanes));
  const double factors[] = {pair.first, pair.second};
  passes.write([&](const Tile& tile, float* out) {
    const float* in[] = {tile.base, tile.rest[0]};
    kernels.weighted_sum(in, factors, 2, tile.count, out);
  });
}

// NuSLERP's own rule for (nearly) parallel vectors.
Pair nuslerp_factors(double t, double aa, double ab, double bb) {
  const double na = std::max(std::sqrt(aa), 1e-7), nb = std::max(std::sqrt(bb), 1e-7);
  const double cosine = std::clamp(ab / (na * nb), -1.0, 1.0);
  if (1 - cosine * cosine <= 1e-16) return {1 - t, t};
  const double theta = std::acos(cosine);
  return {std::sin((1 - t) * theta) / std::sin(theta), std::sin(t * theta) / std::sin(theta)};
}

// Of whole tensors (flatten), of rows along the last dimension, or of columns along the first (row_wise, as its
// author named it). With a base: of task vectors.
void nuslerp(Passes& passes) {
  const CombineJob& job = passes.job();
  if (passes.count() != 2) bad_merge(job, "expected two models beside the base");
  const std::vector<double> weight = passes.each("weight");
  const double total = weight[0] + weight[1], t = std::fabs(total) < 1e-6 ? 0.5 : weight[1] / total;
  const bool has_base = job.base >= 0;
  if (has_base) passes.use_differences();
  if (passes.flag("nuslerp_flatten")) {
    const std::vector<double> g = passes.gram();
    const Pair pair = nuslerp_factors(t, g[0], g[1], g[3]);
    return passes.write_sum({pair.first, pair.second});
  }
  const CombineKernels& kernels = combine_kernels();
  // Element i of W_k, or of W_k − base.
  const auto value = [&](const Tile& tile, size_t k, int64_t i) {
    const double own = tile.rest[k][i];
    return has_base ? own - static_cast<double>(tile.base[i]) : own;
  };
  if (passes.flag("nuslerp_row_wise") && job.shape.size() > 1) {
    const int64_t columns = passes.elements() / job.shape[0];
    const std::vector<double> sums = passes.sums(static_cast<size_t>(3 * columns), [&](const Tile& tile, double* to) {
      for (int64_t i = 0; i < tile.count; ++i) {
        double* at = to + 3 * ((tile.begin + i) % columns);
        const double a = value(tile, 0, i), b = value(tile, 1, i);
        at[0] += a * a;
        at[1] += a * b;
        at[2] += b * b;
      }
    });
    std::vector<Pair> pairs;
    for (int64_t c = 0; c < columns; ++c) {
      const double* at = sums.data() + 3 * c;
      pairs.push_back(nuslerp_factors(t, at[0], at[1], at[2]));
    }
    return passes.write([&](const Tile& tile, float* out) {
      for (int64_t i = 0; i < tile.count; ++i) {
        const Pair& pair = pairs[static_cast<size_t>((tile.begin + i) % columns)];
        const double mixed = pair.first * value(tile, 0, i) + pair.second * value(tile, 1, i);
        out[i] = static_cast<float>(has_base ? static_cast<double>(tile.base[i]) + mixed : mixed);
      }
    });
  }
  const int64_t row = passes.unit();
  passes.write([&](const Tile& tile, float* out) {
    for (int64_t at = 0; at < tile.count; at += row) {
      double lanes[3][kSumLanes] = {};
      const float *a = tile.rest[0] + at, *b = tile.rest[1] + at, *base = has_base ? tile.base + at : nullptr;
      const auto dot = [&](const float* x, const float* y, double* to) {
        has_base ? kernels.dot_differences(x, y, base, row, to) : kernels.dot(x, y, row, to);
      };
      dot(a, a, lanes[0]);
      dot(a, b, lanes[1]);
      dot(b, b, lanes[2]);
      const Pair pair = nuslerp_factors(t, lane_sum(lanes[0]), lane_sum(lanes[1]), lane_sum(lanes[2]));
      const double factors[] = {pair.first, pair.second, 1 - pair.first - pair.second};
      const float* in[] = {a, b, base};
      kernels.weighted_sum(in, factors, has_base ? 3 : 2, row, out + at);
    }
  });
}
int64_t nuslerp_unit(const CombineJob& job) {
  const auto flag = [&](const char* name) {
    const auto found = job.shared.find(name);
    return found != job.shared.end() && found->second != 0;
  };
  return flag("nuslerp_flatten") || (flag("nuslerp_row_wise") && job.shape.size() > 1) ? 1 : last_dimension(job);
}

// Barycentre on the sphere by one step in the tangent space at the weighted mean direction.
void multislerp(Passes& passes) {
  const CombineJob& job = passes.job();
  const size_t m = passes.count();
  std::vector<double> weight = passes.each("weight");
  if (m == 1) return passes.write_sum({1.0});
  if (job.base >= 0) passes.use_differences();
  const double eps = passes.shared("eps");
  if (passes.flag("normalize_weights")) {
    double total = 0;
    for (const double w : weight) total += w;
    if (total == 0) bad_merge(job, "weights add up to 0 and cannot be normalised");
    for (double& w : weight) w /= total;
  }
  const std::vector<double> g = passes.gram();
  std::vector<double> norms(m);
  Coefficients mean(m);
  for (size_t i = 0; i < m; ++i) {
    norms[i] = std::sqrt(g[i * m + i]);
    mean[i] = weight[i] / (norms[i] + eps);
  }
  const double length = norm(mean, g);
  if (length < eps) {
    if (m == 2) return passes.write_sum(weight);
    bad_merge(job, "the weighted directions cancel: no mean on the sphere; choose other weights");
  }
  for (double& c : mean) c /= length;
  Coefficients tangent(m);
  double along = 0;  // Σ w ⟨u, mean⟩
  for (size_t i = 0; i < m; ++i) {
    Coefficients unit(m, 0.0);
    unit[i] = 1 / (norms[i] + eps);
    along += weight[i] * inner(unit, mean, g);
    tangent[i] += weight[i] * unit[i];
  }
  for (size_t i = 0; i < m; ++i) tangent[i] -= along * mean[i];
  const double angle = norm(tangent, g) + eps;
  double radius = 0;
  for (size_t i = 0; i < m; ++i) radius += norms[i] * weight[i];
  Coefficients result(m);
  for (size_t i = 0; i < m; ++i)
    result[i] = radius * (mean[i] * std::cos(angle) + tangent[i] * std::sin(angle) / angle);
  passes.write_sum(result);
}

// Riemannian (Karcher) mean of the directions, all inputs alike, times the mean norm.
void karcher(Passes& passes) {
  // The base takes part like any other model, so work on all inputs.
  const CombineJob& job = passes.job();
  const size_t m = job.inputs.size();
  const CombineKernels& kernels = combine_kernels();
  const double tol = passes.shared("tol");
  const auto iterations = static_cast<int>(passes.shared("max_iter"));
  const std::vector<double> lanes = passes.sums(m * m * kSumLanes, [&](const Tile& tile, double* sums) {
    for (size_t i = 0; i < m; ++i)
      for (size_t j = i; j < m; ++j) kernels.dot(tile.all[i], tile.all[j], tile.count, sums + (i * m + j) * kSumLanes);
  });
  std::vector<double> g(m * m), norms(m);
  for (size_t i = 0; i < m; ++i)
    for (size_t j = i; j < m; ++j) g[i * m + j] = g[j * m + i] = lane_sum(lanes.data() + (i * m + j) * kSumLanes);
  std::vector<size_t> valid;
  double radius = 0;
  for (size_t i = 0; i < m; ++i) {
    norms[i] = std::sqrt(g[i * m + i]);
    radius += norms[i] / static_cast<double>(m);
    if (norms[i] > tol) valid.push_back(i);
  }
  Coefficients mean(m, 0.0);
  if (m == 1) {
    mean[0] = 1;
    radius = 1;
  } else if (!valid.empty()) {
    const double alpha = 1 / static_cast<double>(valid.size());
    for (const size_t i : valid) mean[i] = alpha / norms[i];
    const double length = norm(mean, g);
    if (length < tol) {
      mean.assign(m, 0.0);
      mean[valid[0]] = 1 / norms[valid[0]];
    } else {
      for (double& c : mean) c /= length;
    }
    for (int step = 0; step < iterations; ++step) {
      Coefficients tangent(m, 0.0);
      for (const size_t i : valid) {
        Coefficients unit(m, 0.0);
        unit[i] = 1 / norms[i];
        const double cosine = std::clamp(inner(mean, unit, g), -1.0, 1.0), theta = std::acos(cosine);
        if (theta < tol) continue;
        const double factor = alpha * theta / std::sin(theta);
        tangent[i] += factor * unit[i];
        for (size_t k = 0; k < m; ++k) tangent[k] -= factor * cosine * mean[k];
      }
      const double size = norm(tangent, g);
      if (size < tol) break;
      for (size_t k = 0; k < m; ++k) mean[k] = std::cos(size) * mean[k] + std::sin(size) * tangent[k] / size;
      const double now = norm(mean, g);
      if (now > tol)
        for (double& c : mean) c /= now;
    }
  }
  std::vector<double> factors;
  for (const double c : mean) factors.push_back(radius * c);
  passes.write([&](const Tile& tile, float* out) {
    kernels.weighted_sum(tile.all.data(), factors.data(), static_cast<int>(m), tile.count, out);
  });
}

constexpr CombineMethod kMethods[] = {
    {"slerp", slerp},
    {"nuslerp", nuslerp, nuslerp_unit},
    {"multislerp", multislerp},
    {"karcher", karcher},
};

}  // namespace

std::span<const CombineMethod> spherical_methods() { return kMethods; }

}  // namespace galvani
