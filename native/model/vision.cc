#include "model/vision.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/status.h"
#include "ops/activation.h"
#include "ops/attention.h"
#include "ops/norm.h"
#include "ops/rope.h"

namespace galvani {

void window_order(const VisionConfig& config, const std::array<int32_t, 3>& grid, std::vector<int32_t>& cells,
                  std::vector<int32_t>& window_patches) {
  const int32_t height = grid[1] / config.merge_size, width = grid[2] / config.merge_size;
  const int32_t side = config.window_size / config.merge_size / config.patch_size;
  cells.clear();
  window_patches.clear();
  for (int32_t t = 0; t < grid[0]; ++t)
    for (int32_t wy = 0; wy < height; wy += side)
      for (int32_t wx = 0; wx < width; wx += side) {
        const size_t before = cells.size();
        for (int32_t y = wy; y < std::min(wy + side, height); ++y)
          for (int32_t x = wx; x < std::min(wx + side, width); ++x) cells.push_back((t * height + y) * width + x);
        window_patches.push_back(static_cast<int32_t>(cells.size() - before) * config.merge_size * config.merge_size);
      }
}

namespace {

// Where one job's rows lie, and how its patches are ordered inside.
struct Layout {
  int64_t begin = 0;
  int32_t rows = 0;                      // patches
  std::vector<int32_t> cells;            // window order → merged cell
  std::vector<int32_t> patch;            // matrix row − begin → patch
  std::vector<int32_t> matrix_row;       // patch → matrix row
  std::vector<int32_t> windows, frames;  // lengths in patches
};

class Encoder {
 public:
  Encoder(const VisionConfig& config, const std::vector<ImageInput>& images, const std::vector<VisionJob>& jobs,
          ThreadPool& pool)
      : config_(config),
        images_(images),
        jobs_(jobs),
        pool_(pool),
        width_(config.width),
        head_dim_(config.width / config.heads) {}

  std::vector<std::vector<float>> run() {
    lay_out();
    embed_patches();
    for (int32_t layer = 0; layer < config_.layers; ++layer) block(layer);
    return project();
  }

 private:
  struct Group {
    const VisionTower* tower;
    int64_t begin, rows;
  };

  void lay_out() {
    layouts_.resize(jobs_.size());
    for (const VisionJob& job : jobs_)
      if (std::none_of(groups_.begin(), groups_.end(), [&](const Group& g) { return g.tower == job.tower; }))
        groups_.push_back({job.tower, 0, 0});
    for (Group& group : groups_) {
      group.begin = rows_;
      for (size_t j = 0; j < jobs_.size(); ++j) {
        if (jobs_[j].tower != group.tower) continue;
        Layout& at = layouts_[j];
        const ImageInput& image = images_[jobs_[j].image];
        at.begin = rows_;
        at.rows = static_cast<int32_t>(image.patches());
        window_order(config_, image.grid, at.cells, at.windows);
        at.frames.assign(image.grid[0], image.grid[1] * image.grid[2]);
        const int32_t unit = config_.merge_size * config_.merge_size;
        at.matrix_row.resize(at.rows);
        for (size_t c = 0; c < at.cells.size(); ++c)
          for (int32_t u = 0; u < unit; ++u) {
            at.patch.push_back(at.cells[c] * unit + u);
            at.matrix_row[at.patch.back()] = static_cast<int32_t>(at.begin + at.patch.size() - 1);
          }
        rows_ += at.rows;
      }
      group.rows = rows_ - group.begin;
    }
  }

  void embed_patches() {
    x_.resize(rows_ * width_);
    std::vector<float> pixels;
    std::vector<int32_t> position(2 * rows_);
    for (const Group& group : groups_) {
      pixels.resize(group.rows * config_.patch_dim);
      for (size_t j = 0; j < jobs_.size(); ++j) {
        if (jobs_[j].tower != group.tower) continue;
        const Layout& at = layouts_[j];
        const ImageInput& image = images_[jobs_[j].image];
        const int32_t merge = config_.merge_size, cells_wide = image.grid[2] / merge;
        const int32_t cells_per_frame = (image.grid[1] / merge) * cells_wide;
        for (int32_t i = 0; i < at.rows; ++i) {
          std::memcpy(pixels.data() + (at.begin - group.begin + i) * config_.patch_dim,
                      image.pixels + int64_t{at.patch[i]} * config_.patch_dim, config_.patch_dim * sizeof(float));
          const int32_t cell = at.patch[i] / (merge * merge) % cells_per_frame, inside = at.patch[i] % (merge * merge);
          position[2 * (at.begin + i)] = cell / cells_wide * merge + inside / merge;
          position[2 * (at.begin + i) + 1] = cell % cells_wide * merge + inside % merge;
        }
      }
      matmul({x_.data() + group.begin * width_, width_, pixels.data(), config_.patch_dim, group.tower->patch_embed.w,
              nullptr, group.rows},
             pool_);
    }
    cos_.resize(rows_ * (head_dim_ / 2));
    sin_.resize(cos_.size());
    vision_rope_table(cos_.data(), sin_.data(), position.data(), rows_, head_dim_);
  }

  // Edits, then read-outs, of one site; x has row stride ldx.
  void site(int32_t layer, Site site, float* x, int64_t ldx, int64_t head_dim) {
    for (size_t j = 0; j < jobs_.size(); ++j) {
      const VisionJob& job = jobs_[j];
      const Layout& at = layouts_[j];
      for (const VisionJob::Bound& bound : job.edits) {
        if (bound.edit.site != site || bound.edit.tower != Tower::kVision || !bound.edit.at_layer(layer)) continue;
        const SourceRow source = [&](int32_t row) { return x + layouts_[bound.source].matrix_row[row] * ldx; };
        const SourceRow own = [&](int32_t row) { return x + at.matrix_row[row] * ldx; };
        const RowBlock rows{at.begin, at.patch.data(), at.rows};
        apply_edit(bound.edit, x, ldx, width_, head_dim, {&rows, 1}, source, own, at.rows);
      }
    }
    for (size_t j = 0; j < jobs_.size(); ++j) {
      const Layout& at = layouts_[j];
      for (auto [sink, first] : jobs_[j].captures) {
        const Edit& edit = sink->edit();
        if (edit.site != site || edit.tower != Tower::kVision || !edit.at_layer(layer)) continue;
        for (int32_t row = 0; row < at.rows; ++row)
          if (contains(edit.rows, first + row)) sink->add_row(layer, x + at.matrix_row[row] * ldx, width_, head_dim);
      }
    }
  }

  void attend(bool full) {
    const int32_t H = config_.heads;
    const int64_t stride = 3 * width_;
    std::vector<const float*> pointers;
    std::vector<KeyRun> runs;
    std::vector<AttentionItem> items;
    std::vector<int32_t> limit;
    int32_t longest = 0;
    int64_t count = 0;
    for (const Layout& at : layouts_) {
      const std::vector<int32_t>& lengths = full ? at.frames : at.windows;
      count += static_cast<int64_t>(lengths.size());
      for (int32_t length : lengths) longest = std::max(longest, length);
    }
    limit.assign(longest, kOpenEnd);  // bidirectional
    pointers.reserve(count * 2 * H);
    runs.reserve(count);
    for (const Layout& at : layouts_) {
      int64_t row = at.begin;
      for (int32_t length : full ? at.frames : at.windows) {
        const float* from = qkv_.data() + row * stride;
        const size_t k = pointers.size();
        for (int32_t h = 0; h < H; ++h) pointers.push_back(from + width_ + h * head_dim_);
        for (int32_t h = 0; h < H; ++h) pointers.push_back(from + 2 * width_ + h * head_dim_);
        runs.push_back({pointers.data() + k, pointers.data() + k + H, stride, length, 0, 0});
        AttentionItem item{};
        item.q = from;
        item.q_stride = stride;
        item.out = z_.data() + row * width_;
        item.out_stride = width_;
        item.limit = limit.data();
        item.rows = length;
        item.runs = &runs.back();
        item.run_count = 1;
        items.push_back(item);
        row += length;
      }
    }
    const AttentionShape shape{H, H, static_cast<int32_t>(head_dim_), 1.0f / std::sqrt(static_cast<float>(head_dim_))};
    attention(shape, items.data(), static_cast<int64_t>(items.size()), pool_);
  }

  void block(int32_t layer) {
    const int64_t W = width_, F = config_.mlp_width;
    h_.resize(rows_ * W);
    qkv_.resize(rows_ * 3 * W);
    z_.resize(rows_ * W);
    out_.resize(rows_ * W);
    site(layer, Site::kResidPre, x_.data(), W, 0);
    for (const Group& g : groups_) {
      const VisionBlock& w = g.tower->blocks[layer];
      rms_norm(h_.data() + g.begin * W, W, x_.data() + g.begin * W, W, w.norm1.data(), g.rows, W, config_.rms_eps,
               pool_);
      matmul({qkv_.data() + g.begin * 3 * W, 3 * W, h_.data() + g.begin * W, W, w.qkv.w, w.qkv.bias_or_null(), g.rows},
             pool_);
    }
    rope_apply(qkv_.data(), 3 * W, rows_, config_.heads, head_dim_, cos_.data(), sin_.data(), pool_);
    rope_apply(qkv_.data() + W, 3 * W, rows_, config_.heads, head_dim_, cos_.data(), sin_.data(), pool_);
    site(layer, Site::kQ, qkv_.data(), 3 * W, head_dim_);
    site(layer, Site::kK, qkv_.data() + W, 3 * W, head_dim_);
    site(layer, Site::kV, qkv_.data() + 2 * W, 3 * W, head_dim_);
    const std::vector<int32_t>& full = config_.full_attention_layers;
    attend(std::find(full.begin(), full.end(), layer) != full.end());
    site(layer, Site::kZ, z_.data(), W, head_dim_);
    for (const Group& g : groups_) {
      const VisionBlock& w = g.tower->blocks[layer];
      matmul({out_.data() + g.begin * W, W, z_.data() + g.begin * W, W, w.proj.w, w.proj.bias_or_null(), g.rows},
             pool_);
    }
    site(layer, Site::kAttnOut, out_.data(), W, 0);
    add_rows(x_.data(), W, out_.data(), W, rows_, W, pool_);
    site(layer, Site::kResidMid, x_.data(), W, 0);
    const int64_t slab = std::max<int64_t>(64, (int64_t{32} << 20) / (F * static_cast<int64_t>(sizeof(float))));
    for (const Group& g : groups_) {
      const VisionBlock& w = g.tower->blocks[layer];
      for (int64_t at = g.begin; at < g.begin + g.rows; at += slab) {
        const int64_t rows = std::min(slab, g.begin + g.rows - at);
        gate_.resize(rows * F);
        up_.resize(rows * F);
        rms_norm(h_.data() + at * W, W, x_.data() + at * W, W, w.norm2.data(), rows, W, config_.rms_eps, pool_);
        matmul({gate_.data(), F, h_.data() + at * W, W, w.gate.w, w.gate.bias_or_null(), rows}, pool_);
        matmul({up_.data(), F, h_.data() + at * W, W, w.up.w, w.up.bias_or_null(), rows}, pool_);
        swiglu(gate_.data(), F, gate_.data(), F, up_.data(), F, rows, F, pool_);
        matmul({out_.data() + at * W, W, gate_.data(), F, w.down.w, w.down.bias_or_null(), rows}, pool_);
      }
    }
    site(layer, Site::kMlpOut, out_.data(), W, 0);
    add_rows(x_.data(), W, out_.data(), W, rows_, W, pool_);
    site(layer, Site::kResidPost, x_.data(), W, 0);
  }

  std::vector<std::vector<float>> project() {
    const int64_t unit = int64_t{config_.merge_size} * config_.merge_size, merged = width_ * unit,
                  C = config_.out_width;
    std::vector<std::vector<float>> tokens(jobs_.size());
    std::vector<float> normed, hidden, out;
    for (size_t j = 0; j < jobs_.size(); ++j) {
      const VisionJob& job = jobs_[j];
      const Layout& at = layouts_[j];
      const int64_t cells = static_cast<int64_t>(at.cells.size());
      normed.resize(at.rows * width_);
      hidden.resize(cells * merged);
      out.resize(cells * C);
      rms_norm(normed.data(), width_, x_.data() + at.begin * width_, width_, job.projector->norm.data(), at.rows,
               width_, config_.rms_eps, pool_);
      matmul({hidden.data(), merged, normed.data(), merged, job.projector->fc1.w, job.projector->fc1.bias_or_null(),
              cells},
             pool_);
      gelu(hidden.data(), cells * merged, pool_);
      matmul({out.data(), C, hidden.data(), merged, job.projector->fc2.w, job.projector->fc2.bias_or_null(), cells},
             pool_);
      tokens[j].resize(cells * C);
      for (int64_t c = 0; c < cells; ++c)
        std::memcpy(tokens[j].data() + at.cells[c] * C, out.data() + c * C, C * sizeof(float));

      std::vector<int32_t> rows(cells);
      for (int64_t c = 0; c < cells; ++c) rows[c] = static_cast<int32_t>(c);
      for (const VisionJob::Bound& bound : job.edits) {
        if (bound.edit.tower != Tower::kProjector) continue;
        const SourceRow source = [&](int32_t row) { return tokens[bound.source].data() + row * C; };
        const SourceRow own = [&](int32_t row) { return tokens[j].data() + row * C; };
        const RowBlock all{0, rows.data(), static_cast<int32_t>(cells)};
        apply_edit(bound.edit, tokens[j].data(), C, C, 0, {&all, 1}, source, own, static_cast<int32_t>(cells));
      }
      for (auto [sink, first] : job.captures) {
        if (sink->edit().tower != Tower::kProjector) continue;
        const int32_t first_cell = first / static_cast<int32_t>(unit);
        for (int64_t c = 0; c < cells; ++c)
          if (contains(sink->edit().rows, first_cell + static_cast<int32_t>(c)))
            sink->add_row(0, tokens[j].data() + c * C, C, 0);
      }
    }
    return tokens;
  }

  const VisionConfig& config_;
  const std::vector<ImageInput>& images_;
  const std::vector<VisionJob>& jobs_;
  ThreadPool& pool_;
  const int64_t width_, head_dim_;
  int64_t rows_ = 0;
  std::vector<Layout> layouts_;
  std::vector<Group> groups_;
  std::vector<float> x_, h_, qkv_, z_, out_, gate_, up_, cos_, sin_;
};

}  // namespace

std::vector<std::vector<float>> encode_images(const VisionConfig& config, const std::vector<ImageInput>& images,
                                              const std::vector<VisionJob>& jobs, ThreadPool& pool) {
  if (jobs.empty()) return {};
  return Encoder(config, images, jobs, pool).run();
}

}  // namespace galvani
