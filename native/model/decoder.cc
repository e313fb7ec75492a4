#include "model/decoder.h"

#include <algorithm>
#include <array>

#include "core/status.h"
#include "model/attend.h"
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
  return {
      RowBlock{block.full_begin, block.rows.data(), block.full},
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
      apply_edit(*bound.edit, x, width, width, head_dim, {parts.data(), full_only ? 1u : 2u}, source, own,
                 block.prompt_rows);
    }
    for (CaptureSink* sink : block.captures) {
      const Edit& edit = sink->edit();
      if (edit.site != site) continue;
      if (block.prefix) {  // decode: the one row of this step
        if (contains(edit.rows, block.rows[0])) sink->add_row(in.layer, row_of(b, block.rows[0]), width, head_dim);
      } else {
        for (int32_t row : expand(edit.rows, block.prompt_rows))
          sink->add_row(in.layer, row_of(b, row), width, head_dim);
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
      arena_.append(*block.keys, *block.page, *block.page_used, block.rows[0], k_.data() + at * GD,
                    v_.data() + at * GD);
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
        if (!merged.empty() && merged.back().page == slice.page &&
            merged.back().slot + merged.back().count == slice.slot &&
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
      std::vector<int32_t> rows =
          block.prefix ? std::vector<int32_t>{block.rows[0]} : expand(edit.rows, block.prompt_rows);
      for (int32_t row : rows) {
        if (block.prefix && !contains(edit.rows, row)) continue;
        arena_.read(*block.keys, row, edit.site == Site::kV, captured.data());
        sink->add_row(in.layer, captured.data(), GD, config_.head_dim);
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
    rope_apply(q_.data() + g.begin * HD, HD, g.full, config_.heads, D, in.cos + g.begin * (D / 2),
               in.sin + g.begin * (D / 2), pool_);
  }
  rope_apply(k_.data(), GD, R, config_.kv_heads, D, in.cos, in.sin, pool_);
  site(in, Site::kQ, q_.data(), HD, D, true);
  publish_keys(in);
  attend(config_, arena_, in, q_.data(), z_.data(), pool_);
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
