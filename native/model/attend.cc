#include "model/attend.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <string>

#include "core/status.h"

namespace galvani {
namespace {

// The edits of one block at attn_logits as the table that attention reads.
struct EditTable {
  std::vector<uint8_t> head_class, row_class;
  std::vector<ScoreEdit> table;
  ScoreEdits view;
};

// Rows (or heads) touched by the same edits form a class.
uint8_t class_of(std::map<std::string, uint8_t>& classes, const std::string& members) {
  const auto [it, fresh] = classes.try_emplace(members, static_cast<uint8_t>(classes.size()));
  if (classes.size() > 255)
    throw Error(Code::kUnsupported, "attn_logits: more than 255 distinct combinations of edits in one run");
  return it->second;
}

std::unique_ptr<EditTable> score_edits(const Block& block, const std::vector<KeyRun>& runs, int32_t heads) {
  std::vector<const Edit*> edits;
  for (const BoundEdit& bound : block.edits)
    if (bound.edit->site == Site::kAttnLogits) edits.push_back(bound.edit);
  if (edits.empty()) return nullptr;
  auto made = std::make_unique<EditTable>();
  std::map<std::string, uint8_t> head_classes, row_classes;
  for (int32_t h = 0; h < heads; ++h) {
    std::string members;
    for (const Edit* edit : edits)
      members.push_back(edit->heads.empty() ||
                        std::find(edit->heads.begin(), edit->heads.end(), h) != edit->heads.end());
    made->head_class.push_back(class_of(head_classes, members));
  }
  for (int32_t r = 0; r < block.full; ++r) {
    std::string members;  // one flag per edit
    for (const Edit* edit : edits) members.push_back(contains(edit->rows, block.rows[r]));
    made->row_class.push_back(class_of(row_classes, members));
  }
  made->table.resize(head_classes.size() * row_classes.size() * runs.size());
  for (const auto& [head_members, hc] : head_classes) {
    for (const auto& [row_members, rc] : row_classes) {
      for (size_t run = 0; run < runs.size(); ++run) {
        ScoreEdit& cell = made->table[(hc * row_classes.size() + rc) * runs.size() + run];
        for (size_t e = 0; e < edits.size(); ++e) {
          if (!head_members[e] || !row_members[e]) continue;
          bool hit = edits[e]->keys.empty();
          for (const RowRanges& span : edits[e]->keys) hit = hit || contains(span, runs[run].index);
          if (!hit) continue;
          switch (edits[e]->op) {
            case EditOp::kKnockout:
              cell.blocked = true;
              break;
            case EditOp::kAdd:
              cell.beta += edits[e]->scalar;
              break;
            case EditOp::kScale:
              cell.gamma *= edits[e]->scalar;
              cell.beta *= edits[e]->scalar;
              break;
            default:
              throw Error(Code::kInternal, "attn_logits: not a score edit");
          }
        }
      }
    }
  }
  made->view = {made->head_class.data(), made->row_class.data(), static_cast<int32_t>(row_classes.size()),
                made->table.data(), static_cast<int32_t>(runs.size())};
  return made;
}

// One attention item and everything its pointers point to.
struct Job {
  KeyRuns runs;
  std::unique_ptr<EditTable> edits;
  std::vector<int32_t> cuts, segment_of, limit;
  AttentionCapture capture;
  std::vector<uint8_t> wanted;
  std::vector<float> mass, entropy, lse, key_mass, scratch;
};

// Mass captures of a block share one partition of the keys; each span is then a sum of its parts.
void add_segments(Job& job, const std::vector<CaptureSink*>& sinks) {
  std::vector<int32_t> cuts = job.cuts;
  for (const CaptureSink* sink : sinks)
    for (const RowRanges& span : sink->edit().keys)
      for (const RowRange& range : span) {
        cuts.push_back(range.begin);
        if (range.end != kOpenEnd) cuts.push_back(range.end);
      }
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
  job.cuts = cuts;
  // Intervals that belong to the same spans of every capture are one segment.
  std::map<std::string, int32_t> segments;
  job.segment_of.clear();
  for (size_t i = 0; i <= cuts.size(); ++i) {
    const int32_t key = i == 0 ? (cuts.empty() || cuts[0] > 0 ? 0 : -1) : cuts[i - 1];
    std::string members;
    for (const CaptureSink* sink : sinks)
      for (const RowRanges& span : sink->edit().keys) members.push_back(key >= 0 && contains(span, key));
    job.segment_of.push_back(segments.try_emplace(members, static_cast<int32_t>(segments.size())).first->second);
  }
  job.capture.segments = static_cast<int32_t>(segments.size());
}

bool measures_attention(const CaptureSink* sink) { return sink->edit().site == Site::kAttnLogits; }

}  // namespace

void attend(const DecoderConfig& config, const KvArena& arena, const LayerInput& in, const float* q, float* z,
            ThreadPool& pool) {
  const std::vector<Block>& blocks = *in.blocks;
  const int32_t H = config.heads, D = config.head_dim;
  const int64_t HD = int64_t{H} * D;
  std::vector<std::unique_ptr<Job>> jobs;
  std::vector<AttentionItem> items;
  struct Pending {
    Job* job;
    const Block* block;
    std::vector<CaptureSink*> sinks;
    bool key_mass;
  };
  std::vector<Pending> pending;

  auto add_item = [&](const Block& block, const std::vector<CaptureSink*>& sinks, bool key_mass, bool writes) {
    auto job = std::make_unique<Job>();
    job->cuts = *block.cuts;
    job->segment_of.assign(job->cuts.size() + 1, 0);
    if (!sinks.empty()) add_segments(*job, sinks);
    if (block.prefix) {
      job->runs.build(arena, *block.prefix, job->cuts, job->segment_of);
      job->runs.append(arena, *block.keys, job->cuts, job->segment_of);
    } else {
      job->runs.build(arena, *block.keys, job->cuts, job->segment_of);
    }
    const std::vector<KeyRun>& runs = job->runs.finish();
    job->limit.assign(block.rows.begin(), block.rows.begin() + block.full);
    job->edits = score_edits(block, runs, H);
    AttentionItem item{};
    item.q = q + block.full_begin * HD;
    item.q_stride = HD;
    item.rows = block.full;
    item.limit = job->limit.data();
    item.runs = runs.data();
    item.run_count = static_cast<int32_t>(runs.size());
    item.edits = job->edits ? &job->edits->view : nullptr;
    item.out_stride = HD;
    if (writes) {
      item.out = z + block.full_begin * HD;
    } else {
      job->scratch.resize(block.full * HD);
      item.out = job->scratch.data();
    }
    if (!sinks.empty()) {
      if (key_mass) {
        for (int32_t r = 0; r < block.full; ++r) job->wanted.push_back(contains(sinks[0]->edit().rows, block.rows[r]));
        const int64_t span = block.prefix ? block.rows[0] + 1 : block.prompt_rows;
        job->key_mass.assign(H * span, 0.0f);
        job->capture.wanted = job->wanted.data();
        job->capture.key_mass = job->key_mass.data();
        job->capture.key_span = span;
      } else {
        job->mass.resize(int64_t{block.full} * H * job->capture.segments);
        job->entropy.resize(int64_t{block.full} * H);
        job->lse.resize(int64_t{block.full} * H);
        job->capture.mass = job->mass.data();
        job->capture.entropy = job->entropy.data();
        job->capture.lse = job->lse.data();
      }
      item.capture = &job->capture;
      pending.push_back({job.get(), &block, sinks, key_mass});
    }
    items.push_back(item);
    jobs.push_back(std::move(job));
  };

  for (const Block& block : blocks) {
    if (block.full == 0) continue;
    std::vector<CaptureSink*> row_sinks, key_sinks;
    for (CaptureSink* sink : block.captures) {
      if (!measures_attention(sink)) continue;
      if (block.prefix && !contains(sink->edit().rows, block.rows[0])) continue;
      (sink->edit().measure == Measure::kKeyMass ? key_sinks : row_sinks).push_back(sink);
    }
    add_item(block, row_sinks, false, true);
    // Key mass averages over its own rows, so each such capture is a pass of its own over those rows.
    for (CaptureSink* sink : key_sinks) add_item(block, {sink}, true, false);
  }
  const AttentionShape shape{H, config.kv_heads, D, 1.0f / std::sqrt(static_cast<float>(D))};
  attention(shape, items.data(), static_cast<int64_t>(items.size()), pool);

  for (const Pending& done : pending) {
    const Block& block = *done.block;
    const Job& job = *done.job;
    const int32_t segments = job.capture.segments;
    if (done.key_mass) {
      const int64_t rows = std::count(job.wanted.begin(), job.wanted.end(), 1);
      if (rows > 0) done.sinks[0]->add_key_mass(in.layer, job.key_mass.data(), H, job.capture.key_span, rows);
      continue;
    }
    for (CaptureSink* sink : done.sinks) {
      const Edit& edit = sink->edit();
      // Which segments make up each wanted span.
      std::vector<std::vector<uint8_t>> of_span(edit.keys.size(), std::vector<uint8_t>(segments, 0));
      for (size_t s = 0; s < edit.keys.size(); ++s)
        for (size_t i = 1; i <= job.cuts.size(); ++i)
          if (contains(edit.keys[s], job.cuts[i - 1])) of_span[s][job.segment_of[i]] = 1;
      std::vector<float> row_mass(H * edit.keys.size());
      for (int32_t r = 0; r < block.full; ++r) {
        if (!contains(edit.rows, block.rows[r])) continue;
        if (edit.measure == Measure::kEntropy) {
          sink->add_heads(in.layer, job.entropy.data() + int64_t{r} * H, H, 1);
        } else if (edit.measure == Measure::kLse) {
          sink->add_heads(in.layer, job.lse.data() + int64_t{r} * H, H, 1);
        } else {
          const float* mass = job.mass.data() + int64_t{r} * H * segments;
          for (int32_t h = 0; h < H; ++h)
            for (size_t s = 0; s < edit.keys.size(); ++s) {
              float sum = 0.0f;
              for (int32_t g = 0; g < segments; ++g)
                if (of_span[s][g]) sum += mass[h * segments + g];
              row_mass[h * edit.keys.size() + s] = sum;
            }
          sink->add_heads(in.layer, row_mass.data(), H, static_cast<int64_t>(edit.keys.size()));
        }
      }
    }
  }
}

}  // namespace galvani
