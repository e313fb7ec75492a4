// Task arithmetic and its kin: differences from a base, thinned out, perhaps reconciled by sign, added up.
//
//   task_arithmetic Ilharco et al. 2023 · ties Yadav et al. 2023 · dare Yu et al. 2024 · breadcrumbs Davari &
//   Belilovsky 2024 · della Deep et al. 2024
//
// `rescale` restores Σ|Δ| of each thinned difference, tensor by tensor: in expectation the 1/density of DARE's paper.
#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "ops/combine_kernels.h"
#include "ops/combine_passes.h"
#include "ops/combine_select.h"

namespace galvani {
namespace {

// Puts back to the base what a method leaves out of one tile's differences.
using Thin = std::function<void(const Tile&)>;

uint64_t input_key(const CombineJob& job, size_t input) {
  uint64_t z = job.seed + (input + 1) * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

std::vector<double> densities(Passes& passes) {
  std::vector<double> density = passes.each("density");
  for (const double d : density)
    if (!(d >= 0)) bad_merge(passes.job(), "density: expected a number of at least 0");
  return density;
}

// By rank of |Δ|; range(n, input) gives the ranks kept. Densities of 1 and more keep all.
Thin by_rank(Passes& passes, bool descending, const std::function<RankRange(int64_t n, size_t input)>& range) {
  const std::vector<double> density = densities(passes);
  std::vector<size_t> thinned;
  std::vector<RankRange> ranges;
  for (size_t i = 0; i < density.size(); ++i) {
    if (density[i] >= 1) continue;
    thinned.push_back(i);
    ranges.push_back(range(passes.elements(), i));
  }
  if (thinned.empty()) return [](const Tile&) {};
  const auto keys = [thinned, descending](const Tile& tile, size_t list, uint32_t* out) {
    const float *x = tile.rest[thinned[list]], *base = tile.base;
    for (int64_t i = 0; i < tile.count; ++i) out[i] = rank_key(x[i] - base[i], descending);
  };
  const auto mask = std::make_shared<RankMask>(passes, keys, ranges);
  return [mask, thinned](const Tile& tile) {
    for (size_t list = 0; list < thinned.size(); ++list) mask->apply(tile, list, tile.base, tile.rest[thinned[list]]);
  };
}

Thin keep_all(Passes&) {
  return [](const Tile&) {};
}

// The largest; at least one of a density above 0.
Thin keep_largest(Passes& passes) {
  const std::vector<double> density = passes.each("density");
  return by_rank(passes, true, [&](int64_t n, size_t input) {
    const auto k = static_cast<int64_t>(density[input] * static_cast<double>(n));
    return RankRange{0, density[input] > 0 ? std::max<int64_t>(1, k) : 0};
  });
}

// Without the largest gamma and the smallest rest, so that `density` stays.
Thin keep_middle(Passes& passes) {
  const std::vector<double> density = passes.each("density"), gamma = passes.each("gamma");
  return by_rank(passes, false, [&](int64_t n, size_t input) {
    const auto size = static_cast<double>(n);
    const auto kept = static_cast<int64_t>(density[input] * size), top = static_cast<int64_t>(gamma[input] * size);
    const int64_t first = std::max<int64_t>(0, n - kept - top);
    return RankRange{first, std::min(n, first + kept)};
  });
}

Thin keep_at_random(Passes& passes) {
  const CombineJob& job = passes.job();
  std::vector<std::pair<float, uint64_t>> draws;  // density and key
  for (const double d : densities(passes)) draws.emplace_back(static_cast<float>(d), input_key(job, draws.size()));
  return [draws](const Tile& tile) {
    for (size_t i = 0; i < draws.size(); ++i)
      if (draws[i].first < 1)
        combine_kernels().keep_random(tile.base, tile.rest[i], tile.count, draws[i].second, tile.begin, draws[i].first);
  };
}

// Ranks 0 … n − 1 by |x − base|, equal ones in order: least significant digits first, 11 bits at a time.
void row_ranks(const float* x, const float* base, int64_t n, uint32_t* ranks) {
  const auto size = static_cast<size_t>(n);
  std::vector<uint32_t> order(size), next(size);
  for (size_t i = 0; i < size; ++i) order[i] = static_cast<uint32_t>(i);
  for (int digit = 0; digit < 3; ++digit) {
    std::vector<uint32_t> at(2049, 0);
    const auto bin = [&](uint32_t i) { return (rank_key(x[i] - base[i], false) >> (11 * digit)) & 2047u; };
    for (size_t i = 0; i < size; ++i) ++at[bin(static_cast<uint32_t>(i)) + 1];
    for (size_t b = 1; b < at.size(); ++b) at[b] += at[b - 1];
    for (const uint32_t i : order) next[at[bin(i)]++] = i;
    order.swap(next);
  }
  for (size_t rank = 0; rank < size; ++rank) ranks[order[rank]] = static_cast<uint32_t>(rank);
}

// Kept with a probability that rises with the rank of |Δ| in its row, from density − epsilon to density + epsilon.
Thin keep_by_magnitude_at_random(Passes& passes) {
  const CombineJob& job = passes.job();
  const std::vector<double> density = densities(passes), epsilon = passes.each("epsilon");
  for (size_t i = 0; i < density.size(); ++i)
    if (density[i] > 0 && density[i] < 1 && !(density[i] - epsilon[i] > 0 && density[i] + epsilon[i] < 1))
      bad_merge(job, "epsilon: density ± epsilon must lie within (0, 1), got " + std::to_string(density[i]) + " ± " +
                         std::to_string(epsilon[i]));
  const int64_t row = passes.unit();
  std::vector<uint64_t> draws;
  for (size_t i = 0; i < density.size(); ++i) draws.push_back(input_key(job, i));
  return [=](const Tile& tile) {
    std::vector<uint32_t> ranks(static_cast<size_t>(row));
    std::vector<float> keep(static_cast<size_t>(tile.count));
    for (size_t input = 0; input < density.size(); ++input) {
      float* x = tile.rest[input];
      if (density[input] >= 1) continue;
      if (density[input] <= 0) {
        std::copy_n(tile.base, tile.count, x);
        continue;
      }
      const double low = density[input] - epsilon[input];
      const double step = row > 1 ? 2 * epsilon[input] / static_cast<double>(row - 1) : 0;
      for (int64_t at = 0; at < tile.count; at += row) {
        row_ranks(x + at, tile.base + at, row, ranks.data());
        for (int64_t i = 0; i < row; ++i)
          keep[static_cast<size_t>(at + i)] =
              static_cast<float>(row > 1 ? low + step * ranks[static_cast<size_t>(i)] : density[input]);
      }
      combine_kernels().keep_random_each(tile.base, x, tile.count, draws[input], tile.begin, keep.data());
    }
  };
}

void merge_differences(Passes& passes, Thin (*make_thin)(Passes&), bool consensus) {
  const CombineJob& job = passes.job();
  if (job.base < 0) bad_merge(job, "expected a base");
  const size_t m = passes.count();
  const CombineKernels& kernels = combine_kernels();
  passes.use_differences();
  const Thin thin = make_thin(passes);
  const std::vector<double> density = passes.each("density"), weight = passes.each("weight");
  std::vector<double> factors(m, 1.0);
  // density 1 leaves nothing out, so there is nothing to restore
  const bool thins = std::any_of(density.begin(), density.end(), [](double d) { return d < 1; });
  if (passes.flag("rescale") && thins && make_thin != keep_all) {
    const std::vector<double> lanes = passes.sums(2 * m * kSumLanes, [&](const Tile& tile, double* sums) {
      const auto add = [&](size_t after) {
        for (size_t i = 0; i < m; ++i)
          kernels.sum_abs_difference(tile.rest[i], tile.base, tile.count, sums + (2 * i + after) * kSumLanes);
      };
      add(0);
      thin(tile);
      add(1);
    });
    for (size_t i = 0; i < m; ++i) {
      const double before = lane_sum(lanes.data() + 2 * i * kSumLanes);
      const double after = lane_sum(lanes.data() + (2 * i + 1) * kSumLanes);
      if (after > 0) factors[i] = before / after;
    }
  }
  for (size_t i = 0; i < m; ++i) factors[i] *= weight[i];
  const bool normalize = passes.flag("normalize");
  const double lambda = passes.shared("lambda");
  if (!consensus) {  // one weighted sum
    double total = 0;
    for (const double w : weight) total += w;
    const double divisor = normalize && std::fabs(total) >= 1e-8 ? total : 1.0;
    for (double& factor : factors) factor *= lambda / divisor;
    const std::vector<double> whole = with_base(factors);
    return passes.write([&](const Tile& tile, float* out) {
      thin(tile);
      std::vector<const float*> in(tile.rest.begin(), tile.rest.end());
      in.push_back(tile.base);
      kernels.weighted_sum(in.data(), whole.data(), static_cast<int>(m + 1), tile.count, out);
    });
  }
  passes.write([&](const Tile& tile, float* out) {
    thin(tile);
    kernels.consensus_sum(tile.base, tile.rest.data(), factors.data(), weight.data(), static_cast<int>(m), normalize,
                          lambda, tile.count, out);
  });
}

template <Thin (*kThin)(Passes&), bool kConsensus>
void method(Passes& passes) {
  merge_differences(passes, kThin, kConsensus);
}

constexpr CombineMethod kMethods[] = {
    {"task_arithmetic", method<keep_all, false>},
    {"ties", method<keep_largest, true>},
    {"dare_linear", method<keep_at_random, false>},
    {"dare_ties", method<keep_at_random, true>},
    {"breadcrumbs", method<keep_middle, false>},
    {"breadcrumbs_ties", method<keep_middle, true>},
    {"della_linear", method<keep_by_magnitude_at_random, false>, flat_row},
    {"della", method<keep_by_magnitude_at_random, true>, flat_row},
};

}  // namespace

std::span<const CombineMethod> task_methods() { return kMethods; }

}  // namespace galvani
