// Methods that are one weighted sum: the weights are given, or follow from the inner products of the inputs.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "ops/combine_kernels.h"
#include "ops/combine_passes.h"

namespace galvani {
namespace {

// Model soup: Σ w W / Σ w. The base, if any, is an input like the others.
void linear(Passes& passes) {
  const CombineJob& job = passes.job();
  const auto found = job.each.find("weight");
  if (found == job.each.end() || found->second.size() != job.inputs.size())
    bad_merge(job, "weight: expected one value per input");
  double sum = 0;
  for (const double w : found->second) sum += w;
  const bool normalize = passes.flag("normalize");
  if (normalize && sum == 0) bad_merge(job, "weights add up to 0 and cannot be normalised");
  std::vector<double> factors;
  for (const double w : found->second) factors.push_back(normalize ? w / sum : w);
  const CombineKernels& kernels = combine_kernels();
  passes.write([&](const Tile& tile, float* out) {
    kernels.weighted_sum(tile.all.data(), factors.data(), static_cast<int>(factors.size()), tile.count, out);
  });
}

// One input, times `scale`.
void passthrough(Passes& passes) {
  const auto scale = passes.job().each.find("scale");
  const double factor = scale == passes.job().each.end() ? 1.0 : scale->second.at(0);
  const CombineKernels& kernels = combine_kernels();
  passes.write(
      [&](const Tile& tile, float* out) { kernels.weighted_sum(tile.all.data(), &factor, 1, tile.count, out); });
}

// W + scale · rms(W) · z, z ~ N(0, 1): the control that tells a graft's effect from that of any change of its size.
void noise(Passes& passes) {
  const CombineKernels& kernels = combine_kernels();
  double size = passes.shared("scale");
  if (passes.flag("relative")) {
    const std::vector<double> lanes = passes.sums(
        kSumLanes, [&](const Tile& tile, double* sums) { kernels.dot(tile.all[0], tile.all[0], tile.count, sums); });
    size *= std::sqrt(lane_sum(lanes.data()) / static_cast<double>(passes.elements()));
  }
  const auto mixed = [](uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  };
  const uint64_t seed = passes.job().seed;
  passes.write([&](const Tile& tile, float* out) {
    for (int64_t i = 0; i < tile.count; ++i) {
      // Box and Muller: elements 2p and 2p + 1 share one pair of uniforms, in (0, 1] and [0, 1).
      const int64_t element = tile.begin + i;
      const uint64_t bits = mixed(seed + static_cast<uint64_t>(element / 2) * 0x9e3779b97f4a7c15ull);
      const double radius = std::sqrt(-2.0 * std::log((static_cast<double>(bits >> 32) + 1.0) * 0x1.0p-32));
      const double angle = 2.0 * std::numbers::pi * static_cast<double>(bits & 0xffffffffu) * 0x1.0p-32;
      const double z = radius * (element % 2 ? std::sin(angle) : std::cos(angle));
      out[i] = static_cast<float>(static_cast<double>(tile.all[0][i]) + size * z);
    }
  });
}

// How far to go from W_0 to the mean of n models, from the mean cosine between their updates (Jang et al., eq. 8).
double stock_ratio(double cosine, size_t models) {
  const double n = static_cast<double>(models), denominator = 1 + (n - 1) * cosine;
  // No finite estimate where the updates cancel: stay with the base.
  return std::fabs(denominator) < 1e-6 ? 0.0 : n * cosine / denominator;
}
double mean_cosine(const double* g, size_t m) {
  double sum = 0;
  for (size_t i = 0; i < m; ++i)
    for (size_t j = i + 1; j < m; ++j) {
      const double norms = std::sqrt(g[i * m + i]) * std::sqrt(g[j * m + j]);
      sum += norms > 0 ? std::clamp(g[i * m + j] / norms, -1.0, 1.0) : 0.0;
    }
  return sum / (static_cast<double>(m * (m - 1)) / 2);
}

void model_stock(Passes& passes) {
  const size_t m = passes.count();
  if (m < 2) bad_merge(passes.job(), "expected a base and at least two other models");
  passes.use_differences();
  if (!passes.flag("filter_wise")) {
    const std::vector<double> g = passes.gram();
    const double share = stock_ratio(mean_cosine(g.data(), m), m) / static_cast<double>(m);
    return passes.write_sum(std::vector<double>(m, share));
  }
  const CombineKernels& kernels = combine_kernels();
  const int64_t row = passes.unit();
  passes.write([&](const Tile& tile, float* out) {
    std::vector<double> g(m * m);
    std::vector<const float*> in(m + 1);
    for (int64_t at = 0; at < tile.count; at += row) {
      for (size_t i = 0; i < m; ++i)
        for (size_t j = i; j < m; ++j) {
          double lanes[kSumLanes] = {};
          kernels.dot_differences(tile.rest[i] + at, tile.rest[j] + at, tile.base + at, row, lanes);
          g[i * m + j] = lane_sum(lanes);
        }
      const double share = stock_ratio(mean_cosine(g.data(), m), m) / static_cast<double>(m);
      const std::vector<double> factors = with_base(std::vector<double>(m, share));
      for (size_t i = 0; i < m; ++i) in[i] = tile.rest[i] + at;
      in[m] = tile.base + at;
      kernels.weighted_sum(in.data(), factors.data(), static_cast<int>(m + 1), row, out + at);
    }
  });
}

int64_t stock_unit(const CombineJob& job) {
  const auto found = job.shared.find("filter_wise");
  return found != job.shared.end() && found->second != 0 ? last_dimension(job) : 1;
}

constexpr CombineMethod kMethods[] = {
    {"linear", linear},
    {"passthrough", passthrough},
    {"noise", noise},
    {"model_stock", model_stock, stock_unit},
};

}  // namespace

std::span<const CombineMethod> linear_methods() { return kMethods; }

}  // namespace galvani
