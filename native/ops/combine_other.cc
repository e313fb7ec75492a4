// Methods with a rule of their own for which entries to take.
#include <algorithm>
#include <cmath>
#include <optional>

#include "ops/combine_kernels.h"
#include "ops/combine_passes.h"
#include "ops/combine_select.h"

namespace galvani {
namespace {

void require_base(Passes& passes, size_t others = 0) {
  if (passes.job().base < 0 || (others > 0 && passes.count() != others))
    bad_merge(passes.job(), others == 1 ? "expected a base and one other model" : "expected a base");
}

// SCE (Wan et al. 2024): select the entries that vary most between models, calculate each model's weight from the
// energy of its update, erase minority signs.
void sce(Passes& passes) {
  require_base(passes);
  const CombineKernels& kernels = combine_kernels();
  const size_t m = passes.count();
  const double share = passes.shared("select_topk");
  passes.use_differences();
  std::optional<RankMask> mask;
  const auto keys = [&kernels, m](const Tile& tile, size_t, uint32_t* out) {
    std::vector<float> variance(static_cast<size_t>(tile.count));
    kernels.variance(tile.rest.data(), static_cast<int>(m), tile.count, variance.data());
    for (int64_t i = 0; i < tile.count; ++i) out[i] = rank_key(variance[static_cast<size_t>(i)], true);
  };
  if (share < 1) {
    const double varying = passes.sums(1, [&](const Tile& tile, double* sums) {
      std::vector<float> variance(static_cast<size_t>(tile.count));
      kernels.variance(tile.rest.data(), static_cast<int>(m), tile.count, variance.data());
      for (const float v : variance) sums[0] += v != 0;
    })[0];
    mask.emplace(passes, keys, std::vector<RankRange>{{0, static_cast<int64_t>(varying * std::max(0.0, share))}});
  }
  const auto select = [&](const Tile& tile) {
    if (!mask) return;
    const std::vector<float> dropped(static_cast<size_t>(tile.count), 0.0f);
    std::vector<float> kept(static_cast<size_t>(tile.count), 1.0f);
    mask->apply(tile, 0, dropped.data(), kept.data());
    for (float* x : tile.rest)
      for (int64_t i = 0; i < tile.count; ++i) x[i] = kept[static_cast<size_t>(i)] != 0 ? x[i] : tile.base[i];
  };
  const std::vector<double> lanes = passes.sums(m * kSumLanes, [&](const Tile& tile, double* sums) {
    select(tile);
    for (size_t i = 0; i < m; ++i)
      kernels.dot_differences(tile.rest[i], tile.rest[i], tile.base, tile.count, sums + i * kSumLanes);
  });
  std::vector<double> weight(m);
  double total = 0;
  for (size_t i = 0; i < m; ++i) total += weight[i] = lane_sum(lanes.data() + i * kSumLanes);
  for (double& w : weight) w = total > 0 ? w / total : 1 / static_cast<double>(m);
  passes.write([&](const Tile& tile, float* out) {
    select(tile);
    kernels.sce_sum(tile.base, tile.rest.data(), weight.data(), static_cast<int>(m), tile.count, out);
  });
}

// Reinforced Agent Merging: entries one model changed are kept whole, entries several changed are averaged.
void ram_with(Passes& passes, const std::vector<double>& unique) {
  const double epsilon = passes.shared("epsilon");
  const CombineKernels& kernels = combine_kernels();
  passes.write([&](const Tile& tile, float* out) {
    kernels.ram_sum(tile.base, tile.rest.data(), unique.data(), static_cast<int>(unique.size()), epsilon, tile.count,
                    out);
  });
}
void ram(Passes& passes) {
  require_base(passes);
  ram_with(passes, std::vector<double>(passes.count(), 1.0));
}

// RAM+, tensor by tensor: what only one model changed is magnified by how much it shares elsewhere.
void ramplus_tl(Passes& passes) {
  require_base(passes);
  const size_t m = passes.count();
  const double epsilon = passes.shared("epsilon");
  const std::vector<double> counts = passes.sums(2 * m, [&](const Tile& tile, double* sums) {
    const auto takes = [&](size_t k, int64_t i) {
      return std::fabs(static_cast<double>(tile.rest[k][i]) - static_cast<double>(tile.base[i])) > epsilon;
    };
    for (int64_t i = 0; i < tile.count; ++i) {
      size_t takers = 0;
      for (size_t k = 0; k < m; ++k) takers += takes(k, i);
      for (size_t k = 0; takers > 0 && k < m; ++k)
        if (takes(k, i)) sums[2 * k + (takers > 1 ? 0 : 1)] += 1;
    }
  });
  std::vector<double> unique;
  for (size_t i = 0; i < m; ++i) {
    const double rho = counts[2 * i] / std::max(counts[2 * i + 1], epsilon);
    unique.push_back(1 + passes.shared("r") * std::clamp(rho, 0.0, passes.shared("alpha")));
  }
  ram_with(passes, unique);
}

void nearswap(Passes& passes) {
  require_base(passes, 1);
  const double t = passes.shared("t");
  const CombineKernels& kernels = combine_kernels();
  passes.write([&](const Tile& tile, float* out) { kernels.nearswap(tile.base, tile.rest[0], t, tile.count, out); });
}

// KL(softmax(new) ‖ softmax(base)) of one row, both with 1e-8 added.
double row_divergence(const float* fresh, const float* base, int64_t n) {
  const auto normaliser = [n](const float* x, double& top) {
    top = *std::max_element(x, x + n);
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += std::exp(static_cast<double>(x[i]) - top);
    return sum;
  };
  double top_p, top_q;
  const double sum_p = normaliser(fresh, top_p), sum_q = normaliser(base, top_q);
  double divergence = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double p = std::exp(static_cast<double>(fresh[i]) - top_p) / sum_p + 1e-8;
    const double q = std::exp(static_cast<double>(base[i]) - top_q) / sum_q + 1e-8;
    divergence += p * std::log(p / q);
  }
  return divergence;
}

// Takes the other model's entries of high importance |Δ| · KL of their row: those beyond median + 1.5 · interquartile
// range. The quartiles are exact.
void arcee_fusion(Passes& passes) {
  require_base(passes, 1);
  const int64_t row = passes.unit();
  std::vector<double> divergence(static_cast<size_t>(passes.elements() / row));
  passes.visit([&](const Tile& tile) {
    for (int64_t at = 0; at < tile.count; at += row)
      divergence[static_cast<size_t>((tile.begin + at) / row)] =
          row_divergence(tile.rest[0] + at, tile.base + at, row);
  });
  const auto importance = [&](const Tile& tile, int64_t i) {
    const double difference = static_cast<double>(tile.rest[0][i]) - static_cast<double>(tile.base[i]);
    return std::fabs(difference) * divergence[static_cast<size_t>((tile.begin + i) / row)];
  };
  // A divergence is never negative, but its sum may round to just below 0: order signed floats.
  const auto ordered = [](float value) {
    const uint32_t bits = float_to_bits(value);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  };
  const auto value_of = [](uint32_t key) { return bits_to_float(key & 0x80000000u ? key & 0x7fffffffu : ~key); };
  const auto at = [&](double q) { return static_cast<int64_t>(q * static_cast<double>(passes.elements() - 1)); };
  const std::vector<RankAnswer> quartiles = keys_at_ranks(passes,
                                                          [&](const Tile& tile, size_t, uint32_t* keys) {
                                                            for (int64_t i = 0; i < tile.count; ++i)
                                                              keys[i] = ordered(static_cast<float>(importance(tile, i)));
                                                          },
                                                          1, {{0, at(0.25)}, {0, at(0.5)}, {0, at(0.75)}});
  const float q1 = value_of(quartiles[0].key), median = value_of(quartiles[1].key), q3 = value_of(quartiles[2].key);
  const double threshold = median + 1.5 * (static_cast<double>(q3) - static_cast<double>(q1));
  passes.write([&](const Tile& tile, float* out) {
    for (int64_t i = 0; i < tile.count; ++i) out[i] = importance(tile, i) >= threshold ? tile.rest[0][i] : tile.base[i];
  });
}

constexpr CombineMethod kMethods[] = {
    {"sce", sce},
    {"ram", ram},
    {"ramplus_tl", ramplus_tl},
    {"nearswap", nearswap},
    {"arcee_fusion", arcee_fusion, last_dimension},
};

}  // namespace

std::span<const CombineMethod> other_methods() { return kMethods; }

}  // namespace galvani
