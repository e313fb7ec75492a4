#include "device/check/reference.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/dtype.h"

namespace galvani::gpu::check {

RowReference reference_row(const Scene& scene, int32_t token, int32_t head, const PageRun* runs, int32_t count) {
  constexpr double kLog2eExact = 1.4426950408889634074, kInfinity = std::numeric_limits<double>::infinity();
  const int32_t dims = scene.head_dim, kv_head = head / scene.ratio();
  RowReference row;
  row.out.assign(dims, 0.0);
  row.out_size.assign(dims, 0.0);
  row.mass.assign(scene.segments, 0.0);
  row.run_max.assign(count, -kInfinity);
  row.max = -kInfinity;
  std::vector<double> q(dims);
  for (int32_t d = 0; d < dims; ++d) q[d] = bf16_to_float(scene.q[token * scene.q_stride + head * dims + d]);

  const int32_t low = scene.low_of(token), high = scene.high_of(token);
  for (int32_t r = 0; r < count; ++r) {
    const PageRun& run = runs[r];
    const Edge edge = scene.edge(token, head, run.segment);
    if (edge_blocks(edge)) continue;
    const double gain = static_cast<double>(edge.gamma) * scene.scale * kLog2eExact, shift = edge.beta * kLog2eExact;
    for (int32_t j = 0; j < run.count; ++j) {
      if (run.index + j < low || run.index + j > high) continue;
      const uint16_t* k = scene.key(run.page, kv_head, run.first + j);
      double dots[8] = {}, sizes[8] = {}, dot = 0.0, size = 0.0;  // eight, so that the compiler may use vectors
      for (int32_t d = 0; d < dims; d += 8)
        for (int32_t i = 0; i < 8; ++i) {
          const double product = q[d + i] * bf16_to_float(k[d + i]);
          dots[i] += product;
          sizes[i] += std::abs(product);
        }
      for (int32_t i = 0; i < 8; ++i) {
        dot += dots[i];
        size += sizes[i];
      }
      const double x = dot * gain + shift;
      row.slack = std::max(row.slack, 0x1.0p-20 * size * gain + 0x1.0p-22 * std::abs(shift));
      row.run_max[r] = std::max(row.run_max[r], x);
      row.max = std::max(row.max, x);
      row.keys.push_back({x, 0.0, run.index + j, run.segment, r});
    }
  }
  row.empty = row.keys.empty();
  row.lse = -kInfinity;
  row.log2_sum = -kInfinity;
  if (row.empty) return row;

  double l = 0.0, t = 0.0;
  for (RowKey& key : row.keys) {
    key.p = std::exp2(key.x - row.max);
    l += key.p;
    t += key.p * (key.x - row.max);
  }
  row.log2_sum = row.max + std::log2(l);
  row.lse = row.log2_sum / kLog2eExact;
  row.t_over_l = t / l;
  row.entropy = (std::log2(l) - row.t_over_l) / kLog2eExact;
  for (RowKey& key : row.keys) {
    key.p /= l;
    row.mass[key.segment] += key.p;
    const double weight = key.p * scene.edge(token, head, key.segment).post;
    if (weight < 1e-30) continue;
    const PageRun& run = runs[key.run];
    const uint16_t* v = scene.value(run.page, kv_head, run.first + key.index - run.index);
    for (int32_t d = 0; d < dims; ++d) {
      const double term = weight * bf16_to_float(v[d]);
      row.out[d] += term;
      row.out_size[d] += std::abs(term);
    }
  }
  return row;
}

FinalValue final_value(const Scene& scene, const RowReference& row, int32_t token, int32_t head, int32_t d) {
  FinalValue out{row.out[d], row.out_size[d]};
  const Program* program = scene.program_of(token);
  if (!program) return out;
  if (!program->head_scale.empty()) {
    out.value *= program->head_scale[head];
    out.size *= std::abs(program->head_scale[head]);
  }
  if (!program->head_add.empty()) {
    const double add = program->head_add[int64_t{head} * scene.head_dim + d];
    out.value += add;
    out.size += std::abs(add);
  }
  return out;
}

}  // namespace galvani::gpu::check
