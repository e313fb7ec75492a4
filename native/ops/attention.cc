#include "ops/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "core/simd.h"
#include "core/status.h"
#include "ops/attention_capture.h"
#include "ops/attention_kernel.h"
#include "ops/scratch.h"

namespace galvani {

void check(const AttentionShape& shape) {
  if (shape.heads <= 0 || shape.kv_heads <= 0 || shape.head_dim <= 0 || shape.heads % shape.kv_heads != 0)
    throw Error(Code::kBadArgument, "attention: " + std::to_string(shape.heads) + " query heads, " +
                                        std::to_string(shape.kv_heads) + " KV heads, head dimension " +
                                        std::to_string(shape.head_dim));
}

namespace {

// The (row, head of the group) pairs of one item and KV head, in row order, cut into tiles of two vectors.
struct Task {
  const AttentionItem* item;
  int32_t kv_head;
  int64_t first, last;  // pairs
};

class TileRunner {
 public:
  TileRunner(const AttentionShape& shape, const AttentionKernel& kernel, const Task& task)
      : shape_(shape),
        kernel_(kernel),
        item_(*task.item),
        kv_head_(task.kv_head),
        ratio_(shape.heads / shape.kv_heads) {
    for (int32_t c = 0; item_.capture && c < item_.captures; ++c)
      if (item_.capture[c].mass) segments_ = std::max(segments_, item_.capture[c].segments);
  }

  void run(int64_t first, int64_t last) {
    first_ = first;
    used_ = static_cast<int32_t>(last - first);
    vectors_ = used_ > kernel_.width ? 2 : 1;
    lanes_ = vectors_ * kernel_.width;
    find_limits();
    const int64_t keys = cut_counts();
    ScratchCutter size;
    cut(size, keys);
    ScratchCutter cutter(thread_scratch(size.used()));
    cut(cutter, keys);
    fill();
    const AttentionTile tile{vectors_,
                             shape_.head_dim,
                             q_,
                             limit_,
                             item_.low ? low_ : nullptr,
                             spans_.data(),
                             static_cast<int32_t>(spans_.size()),
                             weights_,
                             o_,
                             m_,
                             l_,
                             t_};
    kernel_.run(tile);
    write_out();
    if (item_.capture) write_captures(tile);
  }

 private:
  int64_t row(int32_t lane) const { return (first_ + lane) / ratio_; }
  int64_t head(int32_t lane) const { return kv_head_ * ratio_ + (first_ + lane) % ratio_; }

  // No lane sees a key outside [lowest_, most_]; every lane sees those in [highest_low_, least_].
  void find_limits() {
    constexpr int32_t kMin = std::numeric_limits<int32_t>::min(), kMax = std::numeric_limits<int32_t>::max();
    least_ = kMax;
    most_ = highest_low_ = kMin;
    lowest_ = item_.low ? kMax : kMin;
    for (int64_t r = row(0); r <= row(used_ - 1); ++r) {
      least_ = std::min(least_, item_.limit[r]);
      most_ = std::max(most_, item_.limit[r]);
      if (!item_.low) continue;
      lowest_ = std::min(lowest_, item_.low[r]);
      highest_low_ = std::max(highest_low_, item_.low[r]);
    }
  }

  bool blocked(int32_t r) const {
    if (!item_.edits) return false;
    for (int32_t lane = 0; lane < used_; ++lane)
      if (!item_.edits->at(head(lane), row(lane), r).blocked) return false;
    return true;
  }

  // The parts of the runs that some lane may see. Returns their keys.
  int64_t cut_counts() {
    spans_.clear();
    run_of_.clear();
    int64_t keys = 0;
    for (int32_t r = 0; r < item_.run_count; ++r) {
      const KeyRun& run = item_.runs[r];
      const int64_t first = std::max<int64_t>(run.index, lowest_);
      const int64_t last = std::min<int64_t>(int64_t{run.index} + run.count - 1, most_);
      if (first > last || blocked(r)) continue;
      const int64_t skipped = (first - run.index) * run.stride;
      spans_.push_back({run.k[kv_head_] + skipped, run.v[kv_head_] + skipped, run.stride,
                        static_cast<int32_t>(last - first + 1), static_cast<int32_t>(first),
                        least_ < last || highest_low_ > first, nullptr, nullptr, nullptr, nullptr});
      run_of_.push_back(r);
      keys += last - first + 1;
    }
    return keys;
  }

  void cut(ScratchCutter& cutter, int64_t keys) {
    const int64_t dims = shape_.head_dim;
    q_ = cutter.floats(dims * lanes_);
    o_ = cutter.floats(dims * lanes_);
    weights_ = cutter.floats(keys * lanes_);
    m_ = cutter.floats(lanes_);
    l_ = cutter.floats(lanes_);
    t_ = cutter.floats(lanes_);
    const int64_t edited = lanes_ * (item_.edits ? static_cast<int64_t>(spans_.size()) : 1);
    gain_ = cutter.floats(edited);
    shift_ = cutter.floats(edited);
    post_ = item_.edits ? cutter.floats(edited) : nullptr;
    mass_ = segments_ > 0 ? cutter.floats(int64_t{lanes_} * segments_) : nullptr;
  }

  void fill() {
    const int64_t dims = shape_.head_dim;
    for (int32_t lane = 0; lane < lanes_; ++lane) {
      const float* in = lane < used_ ? item_.q + row(lane) * item_.q_stride + head(lane) * dims : nullptr;
      for (int64_t d = 0; d < dims; ++d) q_[d * lanes_ + lane] = in ? in[d] : 0.0f;
      limit_[lane] = lane < used_ ? item_.limit[row(lane)] : std::numeric_limits<int32_t>::max();
      low_[lane] = lane < used_ && item_.low ? item_.low[row(lane)] : std::numeric_limits<int32_t>::min();
    }
    const float gain = shape_.scale * kLog2e;
    for (size_t s = 0; s < spans_.size(); ++s) {
      const int64_t at = item_.edits ? static_cast<int64_t>(s) * lanes_ : 0;
      spans_[s].gain = gain_ + at;
      spans_[s].shift = shift_ + at;
      if (mass_) spans_[s].mass = mass_ + int64_t{item_.runs[run_of_[s]].segment} * lanes_;
      if (!item_.edits && s > 0) continue;
      for (int32_t lane = 0; lane < lanes_; ++lane) {
        const ScoreEdit edit =
            item_.edits && lane < used_ ? item_.edits->at(head(lane), row(lane), run_of_[s]) : ScoreEdit{};
        gain_[at + lane] = edit.blocked ? 0.0f : gain * edit.gamma;
        shift_[at + lane] = edit.blocked ? kBlocked : edit.beta * kLog2e;
        if (!post_) continue;
        post_[at + lane] = edit.post;
        if (edit.post != 1.0f) spans_[s].post = post_ + at;
      }
    }
    if (mass_) std::fill(mass_, mass_ + int64_t{lanes_} * segments_, 0.0f);
  }

  void write_out() {
    const int64_t dims = shape_.head_dim;
    const HeadEdits edits = item_.head_edits ? *item_.head_edits : HeadEdits{};
    for (int32_t lane = 0; lane < used_; ++lane) {
      float* out = item_.out + row(lane) * item_.out_stride + head(lane) * dims;
      for (int64_t d = 0; d < dims; ++d) out[d] = o_[d * lanes_ + lane];
      if (edits.scale)
        for (int64_t d = 0; d < dims; ++d) out[d] *= edits.scale[head(lane)];
      if (edits.add)
        for (int64_t d = 0; d < dims; ++d) out[d] += edits.add[head(lane) * dims + d];
    }
  }

  void write_captures(const AttentionTile& tile) {
    FinishedTile finished{&item_, &tile, run_of_.data(), mass_, shape_.heads, used_, lanes_, {}, {}};
    for (int32_t lane = 0; lane < used_; ++lane) {
      finished.row[lane] = static_cast<int32_t>(row(lane));
      finished.head[lane] = static_cast<int32_t>(head(lane));
    }
    for (int32_t c = 0; c < item_.captures; ++c) read_out(finished, item_.capture[c]);
  }

  const AttentionShape& shape_;
  const AttentionKernel& kernel_;
  const AttentionItem& item_;
  const int32_t kv_head_, ratio_;
  int64_t first_ = 0;
  int32_t used_ = 0, vectors_ = 1, lanes_ = 0, segments_ = 0;
  int32_t lowest_ = 0, highest_low_ = 0, least_ = 0, most_ = 0;
  std::vector<AttentionSpan> spans_;
  std::vector<int32_t> run_of_;
  float *q_ = nullptr, *o_ = nullptr, *weights_ = nullptr, *m_ = nullptr, *l_ = nullptr, *t_ = nullptr;
  float *gain_ = nullptr, *shift_ = nullptr, *post_ = nullptr, *mass_ = nullptr;
  int32_t limit_[2 * kMaxWidth], low_[2 * kMaxWidth];
};

}  // namespace

int attention_width_portable() { return kWidth; }
void attention_tile_portable(const AttentionTile& tile) { attention_tile(tile); }

AttentionKernel attention_kernel() {
#if defined(__x86_64__)
  switch (cpu_isa()) {
    case Isa::kAvx512:
      return {attention_width_avx512(), attention_tile_avx512};
    case Isa::kAvx2:
      return {attention_width_avx2(), attention_tile_avx2};
    case Isa::kPortable:
      break;
  }
#endif
  return {attention_width_portable(), attention_tile_portable};
}

void attention(const AttentionShape& shape, const AttentionItem* items, int64_t count, ThreadPool& pool) {
  check(shape);
  constexpr double kMacsPerMicrosecond = 40e3, kWorthWaking = 15.0;
  const AttentionKernel chosen = attention_kernel();
  const int64_t ratio = shape.heads / shape.kv_heads, lanes = 2 * chosen.width;
  std::vector<Task> tasks;
  double macs = 0.0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t pairs = items[i].rows * ratio;
    int64_t keys = 0;
    for (int32_t r = 0; r < items[i].run_count; ++r) keys += items[i].runs[r].count;
    macs += 2.0 * static_cast<double>(pairs) * static_cast<double>(keys) * shape.head_dim * shape.kv_heads;
    // Column sums over rows are taken in row order: the tiles of a head then stay on one thread.
    bool ordered = false;
    for (int32_t c = 0; items[i].capture && c < items[i].captures; ++c)
      ordered |= items[i].capture[c].key_mass != nullptr;
    const int64_t step = ordered ? std::max<int64_t>(pairs, 1) : lanes;
    for (int64_t first = (pairs - 1) / step * step; first >= 0 && pairs > 0; first -= step)  // causal: longest first
      for (int32_t g = 0; g < shape.kv_heads; ++g)
        tasks.push_back({&items[i], g, first, std::min(first + step, pairs)});
  }
  const auto body = [&](int64_t index) {
    const Task& task = tasks[static_cast<size_t>(index)];
    TileRunner runner(shape, chosen, task);
    for (int64_t first = task.first; first < task.last; first += lanes)
      runner.run(first, std::min(first + lanes, task.last));
  };
  const int64_t size = static_cast<int64_t>(tasks.size());
  if (macs / kMacsPerMicrosecond < kWorthWaking) {
    for (int64_t index = 0; index < size; ++index) body(index);
  } else {
    pool.run(size, body);
  }
}

}  // namespace galvani
