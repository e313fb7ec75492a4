#include "device/check/twin.h"

#include <algorithm>
#include <deque>

#include "core/dtype.h"
#include "ops/attention.h"

namespace galvani::gpu::check {
namespace {

std::vector<float> widened(const std::vector<uint16_t>& bits) {
  std::vector<float> out(bits.size());
  for (size_t i = 0; i < bits.size(); ++i) out[i] = bf16_to_float(bits[i]);
  return out;
}

// Neighbouring tokens of one block under one program: an item of the twin and what it points to.
struct Group {
  std::vector<KeyRun> runs;
  std::deque<std::vector<const float*>> pointers;  // a deque, since runs point into it
  std::vector<uint8_t> head_class, row_class;
  std::vector<ScoreEdit> table;
  std::vector<int32_t> low, high;
  ScoreEdits edits{};
  HeadEdits head_edits{};
  AttentionCapture capture{};
  std::vector<int32_t> top_index;
};

class Twin {
 public:
  explicit Twin(const Scene& scene) : s_(scene), q_(widened(scene.q)), k_(widened(scene.k)), v_(widened(scene.v)) {
    const int64_t rows = int64_t{s_.tokens} * s_.heads;
    result_.out.resize(rows * s_.head_dim);
    result_.lse.resize(rows);
    result_.entropy.resize(rows);
    result_.mass.resize(rows * s_.segments);
    result_.top_weight.resize(rows * s_.top_k);
  }

  TwinResult run(ThreadPool& pool) {
    for (const QueryBlock& block : s_.blocks)
      for (int32_t t = block.token0, next; t < block.token0 + block.tokens; t = next) {
        next = t + 1;
        while (next < block.token0 + block.tokens && s_.program_of(next) == s_.program_of(t)) ++next;
        add(block, t, next - t);
      }
    attention({s_.heads, s_.kv_heads, s_.head_dim, s_.scale}, items_.data(), static_cast<int64_t>(items_.size()), pool);
    return std::move(result_);
  }

 private:
  void add(const QueryBlock& block, int32_t token0, int32_t tokens) {
    Group& group = groups_.emplace_back();
    for (int32_t r = 0; r < block.run_count; ++r) {
      const PageRun& run = block.runs[r];
      for (const std::vector<float>* from : {&k_, &v_}) {
        group.pointers.emplace_back();
        for (int64_t g = 0; g < s_.kv_heads; ++g)
          group.pointers.back().push_back(
              from->data() + ((int64_t{run.page} * s_.kv_heads + g) * kPageKeys + run.first) * s_.head_dim);
      }
      group.runs.push_back({group.pointers[group.pointers.size() - 2].data(), group.pointers.back().data(), s_.head_dim,
                            run.count, run.index, run.segment});
    }
    for (int32_t t = token0; t < token0 + tokens; ++t) {
      group.low.push_back(s_.low_of(t));
      group.high.push_back(s_.high_of(t));
      group.row_class.push_back(s_.token_class.empty() ? 0 : s_.token_class[t]);
    }
    const Program* program = s_.program_of(token0);
    if (program && !program->edges.empty()) edit(group, *program, block);
    if (program && !program->head_scale.empty()) group.head_edits.scale = program->head_scale.data();
    if (program && !program->head_add.empty()) group.head_edits.add = program->head_add.data();

    const int64_t row = int64_t{token0} * s_.heads;
    AttentionCapture& capture = group.capture;
    capture.segments = s_.segments;
    capture.mass = result_.mass.data() + row * s_.segments;
    capture.entropy = result_.entropy.data() + row;
    capture.lse = result_.lse.data() + row;
    if (s_.top_k > 0) {
      capture.top_k = s_.top_k;
      group.top_index.resize(static_cast<size_t>(tokens) * s_.heads * s_.top_k);
      capture.top_index = group.top_index.data();
      capture.top_weight = result_.top_weight.data() + row * s_.top_k;
    }
    AttentionItem item{};
    item.q = q_.data() + token0 * s_.q_stride;
    item.q_stride = s_.q_stride;
    item.out = result_.out.data() + row * s_.head_dim;
    item.out_stride = int64_t{s_.heads} * s_.head_dim;
    item.limit = group.high.data();
    item.low = group.low.data();
    item.rows = tokens;
    item.runs = group.runs.data();
    item.run_count = static_cast<int32_t>(group.runs.size());
    item.edits = group.table.empty() ? nullptr : &group.edits;
    item.capture = &group.capture;
    item.captures = 1;
    item.head_edits = &group.head_edits;
    items_.push_back(item);
  }

  void edit(Group& group, const Program& program, const QueryBlock& block) {
    group.head_class = program.head_class;
    if (group.head_class.empty()) group.head_class.assign(s_.heads, 0);
    const int32_t classes = *std::max_element(group.head_class.begin(), group.head_class.end()) + 1;
    for (int32_t hc = 0; hc < classes; ++hc)
      for (int32_t rc = 0; rc < program.row_classes; ++rc)
        for (int32_t r = 0; r < block.run_count; ++r) {
          const Edge& edge =
              program.edges[(int64_t{hc} * program.row_classes + rc) * s_.segments + block.runs[r].segment];
          const bool blocked = edge_blocks(edge);
          group.table.push_back({std::max(edge.gamma, kLeastGamma), blocked ? 0.0f : edge.beta, blocked, edge.post});
        }
    group.edits = {group.head_class.data(), group.row_class.data(), program.row_classes, group.table.data(),
                   block.run_count};
  }

  const Scene& s_;
  const std::vector<float> q_, k_, v_;
  TwinResult result_;
  std::deque<Group> groups_;
  std::vector<AttentionItem> items_;
};

}  // namespace

TwinResult run_twin(const Scene& scene, ThreadPool& pool) { return Twin(scene).run(pool); }

}  // namespace galvani::gpu::check
