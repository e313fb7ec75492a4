#include "model/decoder.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <string>

#include "core/status.h"
#include "ops/activation.h"
#include "ops/norm.h"
#include "ops/rope.h"

namespace galvani {

int64_t DecoderPass::arrange(std::vector<Block>& blocks) {
  std::vector<const DecoderLayer*> sources;  // in order of first appearance: deterministic
  for (const Block& block : blocks)
    if (std::find(sources.begin(), sources.end(), block.weights) == sources.end()) sources.push_back(block.weights);
  int64_t next = 0;
  for (const DecoderLayer* source : sources) {
    for (Block& block : blocks)
      if (block.weights == source) {
        block.full_begin = next;
        next += block.full;
      }
    for (Block& block : blocks)
      if (block.weights == source) {
        block.keys_begin = next;
        next += static_cast<int64_t>(block.rows.size()) - block.full;
      }
  }
  for (Block& block : blocks) {
    for (int32_t i = 0; i < static_cast<int32_t>(block.rows.size()); ++i)
      block.index[block.rows[i] - block.index_from] =
          static_cast<int32_t>(i < block.full ? block.full_begin + i : block.keys_begin + i - block.full);
  }
  return next;
}

int64_t DecoderPass::locate(const std::vector<Block>& blocks, int32_t block, int32_t row) {
  const Block* at = &blocks[block];
  while (row < at->own_from) at = &blocks[at->base];
  const int64_t i = row - at->index_from;
  return i >= 0 && i < static_cast<int64_t>(at->index.size()) ? at->index[i] : -1;
}

namespace {

// The two stretches of matrix rows that belong to a block.
std::array<RowBlock, 2> parts_of(const Block& block) {
  return {RowBlock{block.full_begin, block.rows.data(), block.full},
          RowBlock{block.keys_begin, block.rows.data() + block.full, static_cast<int32_t>(block.rows.size()) - block.full}};
}

}  // namespace

// Applies the edits of a site to the matrix, then reads it out. Blocks come sources first, so an edit sees its
// source after the source's own edits.
void DecoderPass::site(const LayerInput& in, Site site, float* x, int64_t width, int64_t head_dim, bool full_only) {
  const std::vector<Block>& blocks = *in.blocks;
  auto row_of = [&](int32_t block, int32_t row) -> const float* {
    const int64_t at = locate(blocks, block, row);
    GALVANI_CHECK(at >= 0);
    return x + at * width;
  };
  for (int32_t b = 0; b < static_cast<int32_t>(blocks.size()); ++b) {
    const Block& block = blocks[b];
    for (const BoundEdit& bound : block.edits) {
      if (bound.edit->site != site) continue;
      const SourceRow source = [&](int32_t row) { return row_of(bound.source, row); };
      const SourceRow own = [&](int32_t row) { return row_of(b, row); };
      const std::array<RowBlock, 2> parts = parts_of(block);
      apply_edit(*bound.edit, x, width, width, head_dim, {parts.data(), full_only ? 1u : 2u}, source, own, block.prompt_rows);
    }
    for (CaptureSink* sink : block.captures) {
      const Edit& edit = sink->edit();
      if (edit.site != site) continue;
      if (block.prefix) {  // decode: the one row of this step
        if (contains(edit.rows, block.rows[0])) sink->add_row(in.layer, row_of(b, block.rows[0]), width, head_dim);
      } else {
        for (int32_t row : expand(edit.rows, block.prompt_rows)) sink->add_row(in.layer, row_of(b, row), width, head_dim);
      }
    }
  }
}

// Edits k and v, stores the rows in pages, and assembles every block's key list: its base's keys, its own, and the
// source's pages where a patch replaces both K and V whole.
void DecoderPass::publish_keys(const LayerInput& in) {
  std::vector<Block>& blocks = *in.blocks;
  const int64_t GD = int64_t{config_.kv_heads} * config_.head_dim;
  std::vector<float> fetched(GD), captured(GD);
  for (int32_t b = 0; b < static_cast<int32_t>(blocks.size()); ++b) {
    Block& block = blocks[b];
    for (const BoundEdit& bound : block.edits) {
      const Edit& edit = *bound.edit;
      if (edit.site != Site::kK && edit.site != Site::kV) continue;
      const bool value = edit.site == Site::kV;
      float* matrix = value ? v_.data() : k_.data();
      const SourceRow source = [&](int32_t row) -> const float* {
        arena_.read(*blocks[bound.source].keys, row, value, fetched.data());
        return fetched.data();
      };
      const SourceRow own = [&](int32_t row) -> const float* {
        const int64_t at = locate(blocks, b, row);
        GALVANI_CHECK(at >= 0);
        return matrix + at * GD;
      };
      const bool copied = block.kv_source != nullptr && !block.kv_source->empty();  // pages are shared instead
      if (copied) continue;
      apply_edit(edit, matrix, GD, GD, config_.head_dim, parts_of(block), source, own, block.prompt_rows);
    }

    if (block.prefix) {
      const int64_t at = block.full_begin;
      arena_.append(*block.keys, *block.page, *block.page_used, block.rows[0], k_.data() + at * GD, v_.data() + at * GD);
    } else {
      std::shared_ptr<KvPage> page;
      int32_t used = 0;
      if (block.base >= 0) append_slices(*block.keys, *blocks[block.base].keys, 0, block.own_from, 0);
      for (int32_t row = block.own_from; row < block.prompt_rows; ++row) {
        const int32_t edit = block.kv_source && !block.kv_source->empty() ? (*block.kv_source)[row] : -1;
        if (edit >= 0) {
          const int32_t from = block.edits[edit].edit->source_row_of(row);
          append_slices(*block.keys, *blocks[block.edits[edit].source].keys, from, from + 1, row - from);
          continue;
        }
        const int64_t at = block.index[row];
        if (at >= 0) arena_.append(*block.keys, page, used, row, k_.data() + at * GD, v_.data() + at * GD);
      }
      // Neighbouring one-row slices of shared pages become one.
      KeyList merged;
      for (const KeySlice& slice : *block.keys) {
        if (!merged.empty() && merged.back().page == slice.page && merged.back().slot + merged.back().count == slice.slot &&
            merged.back().index + merged.back().count == slice.index)
          merged.back().count += slice.count;
        else
          merged.push_back(slice);
      }
      *block.keys = std::move(merged);
    }

    for (CaptureSink* sink : block.captures) {
      const Edit& edit = sink->edit();
      if (edit.site != Site::kK && edit.site != Site::kV) continue;
      std::vector<int32_t> rows = block.prefix ? std::vector<int32_t>{block.rows[0]} : expand(edit.rows, block.prompt_rows);
      for (int32_t row : rows) {
        if (block.prefix && !contains(edit.rows, row)) continue;
        arena_.read(*block.keys, row, edit.site == Site::kV, captured.data());
        sink->add_row(in.layer, captured.data(), GD, config_.head_dim);
      }
    }
  }
}

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
  if (classes.size() > 255) throw Error(Code::kUnsupported, "attn_logits: more than 255 distinct combinations of edits in one run");
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
      members.push_back(edit->heads.empty() || std::find(edit->heads.begin(), edit->heads.end(), h) != edit->heads.end());
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
            case EditOp::kKnockout: cell.blocked = true; break;
            case EditOp::kAdd: cell.beta += edits[e]->scalar; break;
            case EditOp::kScale:
              cell.gamma *= edits[e]->scalar;
              cell.beta *= edits[e]->scalar;
              break;
            default: throw Error(Code::kInternal, "attn_logits: not a score edit");
          }
        }
      }
    }
  }
  made->view = {made->head_class.data(), made->row_class.data(), static_cast<int32_t>(row_classes.size()), made->table.data(),
                static_cast<int32_t>(runs.size())};
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

void DecoderPass::attend(const LayerInput& in) {
  std::vector<Block>& blocks = *in.blocks;
  const int32_t H = config_.heads, D = config_.head_dim;
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
      job->runs.build(arena_, *block.prefix, job->cuts, job->segment_of);
      job->runs.append(arena_, *block.keys, job->cuts, job->segment_of);
    } else {
      job->runs.build(arena_, *block.keys, job->cuts, job->segment_of);
    }
    const std::vector<KeyRun>& runs = job->runs.finish();
    job->limit.assign(block.rows.begin(), block.rows.begin() + block.full);
    job->edits = score_edits(block, runs, H);
    AttentionItem item{};
    item.q = q_.data() + block.full_begin * HD;
    item.q_stride = HD;
    item.rows = block.full;
    item.limit = job->limit.data();
    item.runs = runs.data();
    item.run_count = static_cast<int32_t>(runs.size());
    item.edits = job->edits ? &job->edits->view : nullptr;
    item.out_stride = HD;
    if (writes) {
      item.out = z_.data() + block.full_begin * HD;
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
  const AttentionShape shape{H, config_.kv_heads, D, 1.0f / std::sqrt(static_cast<float>(D))};
  attention(shape, items.data(), static_cast<int64_t>(items.size()), pool_);

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

void DecoderPass::forward(const LayerInput& in) {
  const int64_t C = config_.width, D = config_.head_dim, F = config_.mlp_width;
  const int64_t HD = config_.heads * D, GD = config_.kv_heads * D, R = in.rows;
  groups_.clear();
  for (const Block& block : *in.blocks) {
    auto it = std::find_if(groups_.begin(), groups_.end(), [&](const Group& g) { return g.weights == block.weights; });
    if (it == groups_.end()) it = groups_.insert(groups_.end(), {block.weights, R, 0, 0});
    it->begin = std::min({it->begin, block.full ? block.full_begin : R,
                          static_cast<int64_t>(block.rows.size()) > block.full ? block.keys_begin : R});
    it->full += block.full;
    it->rows += static_cast<int64_t>(block.rows.size());
  }
  h_.resize(R * C);
  q_.resize(R * HD);
  k_.resize(R * GD);
  v_.resize(R * GD);
  z_.resize(R * HD);
  out_.resize(R * C);

  site(in, Site::kResidPre, in.x, C, 0, false);
  for (const Group& g : groups_) {
    if (g.rows == 0) continue;
    const DecoderLayer& w = *g.weights;
    rms_norm(h_.data() + g.begin * C, C, in.x + g.begin * C, C, w.norm1.data(), g.rows, C, config_.rms_eps, pool_);
    matmul({q_.data() + g.begin * HD, HD, h_.data() + g.begin * C, C, w.q.w, w.q.bias_or_null(), g.full}, pool_);
    matmul({k_.data() + g.begin * GD, GD, h_.data() + g.begin * C, C, w.k.w, w.k.bias_or_null(), g.rows}, pool_);
    matmul({v_.data() + g.begin * GD, GD, h_.data() + g.begin * C, C, w.v.w, w.v.bias_or_null(), g.rows}, pool_);
    rope_apply(q_.data() + g.begin * HD, HD, g.full, config_.heads, D, in.cos + g.begin * (D / 2), in.sin + g.begin * (D / 2), pool_);
  }
  rope_apply(k_.data(), GD, R, config_.kv_heads, D, in.cos, in.sin, pool_);
  site(in, Site::kQ, q_.data(), HD, D, true);
  publish_keys(in);
  attend(in);
  site(in, Site::kZ, z_.data(), HD, D, true);
  for (const Group& g : groups_)
    matmul({out_.data() + g.begin * C, C, z_.data() + g.begin * HD, HD, g.weights->o.w, nullptr, g.full}, pool_);
  site(in, Site::kAttnOut, out_.data(), C, 0, true);
  for (const Group& g : groups_) add_rows(in.x + g.begin * C, C, out_.data() + g.begin * C, C, g.full, C, pool_);
  site(in, Site::kResidMid, in.x, C, 0, true);

  // The MLP's inner activations are the widest; a slab of rows at a time bounds their memory.
  const int64_t slab = std::max<int64_t>(64, (int64_t{32} << 20) / (F * static_cast<int64_t>(sizeof(float))));
  for (const Group& g : groups_) {
    const DecoderLayer& w = *g.weights;
    for (int64_t at = g.begin; at < g.begin + g.full; at += slab) {
      const int64_t rows = std::min(slab, g.begin + g.full - at);
      gate_.resize(rows * F);
      up_.resize(rows * F);
      rms_norm(h_.data() + at * C, C, in.x + at * C, C, w.norm2.data(), rows, C, config_.rms_eps, pool_);
      matmul({gate_.data(), F, h_.data() + at * C, C, w.gate.w, nullptr, rows}, pool_);
      matmul({up_.data(), F, h_.data() + at * C, C, w.up.w, nullptr, rows}, pool_);
      swiglu(gate_.data(), F, gate_.data(), F, up_.data(), F, rows, F, pool_);
      matmul({out_.data() + at * C, C, gate_.data(), F, w.down.w, nullptr, rows}, pool_);
    }
  }
  site(in, Site::kMlpOut, out_.data(), C, 0, true);
  for (const Group& g : groups_) add_rows(in.x + g.begin * C, C, out_.data() + g.begin * C, C, g.full, C, pool_);
  site(in, Site::kResidPost, in.x, C, 0, true);
}

}  // namespace galvani
