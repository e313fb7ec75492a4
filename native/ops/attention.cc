#include "ops/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "core/simd.h"
#include "core/status.h"
#include "ops/attention_kernel.h"
#include "ops/scratch.h"
#include "ops/softmax_state.h"

namespace galvani {
namespace {

void check(const AttentionShape& shape) {
  if (shape.heads <= 0 || shape.kv_heads <= 0 || shape.head_dim <= 0 || shape.heads % shape.kv_heads != 0)
    throw Error(Code::kBadArgument, "attention: " + std::to_string(shape.heads) + " query heads, " +
                                        std::to_string(shape.kv_heads) + " KV heads, head dimension " +
                                        std::to_string(shape.head_dim));
}

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
        ratio_(shape.heads / shape.kv_heads) {}

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
    AttentionTile tile{
        vectors_, shape_.head_dim, q_, limit_, spans_.data(), static_cast<int32_t>(spans_.size()), weights_, o_, m_, l_,
        t_};
    kernel_.run(tile);
    write_out();
    if (item_.capture) write_captures(*item_.capture);
  }

 private:
  int64_t row(int32_t lane) const { return (first_ + lane) / ratio_; }
  int64_t head(int32_t lane) const { return kv_head_ * ratio_ + (first_ + lane) % ratio_; }
  bool captured(int32_t lane) const { return !item_.capture->wanted || item_.capture->wanted[row(lane)]; }

  void find_limits() {
    least_ = std::numeric_limits<int32_t>::max();
    most_ = std::numeric_limits<int32_t>::min();
    for (int64_t r = row(0); r <= row(used_ - 1); ++r) {
      least_ = std::min(least_, item_.limit[r]);
      most_ = std::max(most_, item_.limit[r]);
    }
  }

  // Keys of a run that some lane may see, the whole run blocked counting as none.
  int32_t visible(int32_t r) const {
    const KeyRun& run = item_.runs[r];
    if (run.index > most_) return 0;
    const int32_t count = static_cast<int32_t>(std::min<int64_t>(run.count, int64_t{most_} - run.index + 1));
    if (!item_.edits) return count;
    for (int32_t lane = 0; lane < used_; ++lane)
      if (!item_.edits->at(head(lane), row(lane), r).blocked) return count;
    return 0;
  }

  int64_t cut_counts() {
    spans_.clear();
    run_of_.clear();
    int64_t keys = 0;
    for (int32_t r = 0; r < item_.run_count; ++r) {
      const int32_t count = visible(r);
      if (count <= 0) continue;
      const KeyRun& run = item_.runs[r];
      spans_.push_back({run.k[kv_head_], run.v[kv_head_], run.stride, count, run.index,
                        least_ < static_cast<int64_t>(run.index) + count - 1, nullptr, nullptr, nullptr});
      run_of_.push_back(r);
      keys += count;
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
    gain_ = cutter.floats(lanes_ * (item_.edits ? static_cast<int64_t>(spans_.size()) : 1));
    shift_ = cutter.floats(lanes_ * (item_.edits ? static_cast<int64_t>(spans_.size()) : 1));
    mass_ = item_.capture && item_.capture->mass ? cutter.floats(lanes_ * item_.capture->segments) : nullptr;
  }

  void fill() {
    const int64_t dims = shape_.head_dim;
    for (int32_t lane = 0; lane < lanes_; ++lane) {
      const float* in = lane < used_ ? item_.q + row(lane) * item_.q_stride + head(lane) * dims : nullptr;
      for (int64_t d = 0; d < dims; ++d) q_[d * lanes_ + lane] = in ? in[d] : 0.0f;
      limit_[lane] = lane < used_ ? item_.limit[row(lane)] : std::numeric_limits<int32_t>::max();
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
      }
    }
    if (mass_) std::fill(mass_, mass_ + int64_t{lanes_} * item_.capture->segments, 0.0f);
  }

  void write_out() {
    const int64_t dims = shape_.head_dim;
    for (int32_t lane = 0; lane < used_; ++lane) {
      float* out = item_.out + row(lane) * item_.out_stride + head(lane) * dims;
      for (int64_t d = 0; d < dims; ++d) out[d] = o_[d * lanes_ + lane];
    }
  }

  void write_captures(const AttentionCapture& capture) {
    for (int32_t lane = 0; lane < used_; ++lane) {
      if (!captured(lane)) continue;
      SoftmaxState state;
      state.m = m_[lane];
      state.l = l_[lane];
      state.t = t_[lane];
      const int64_t at = row(lane) * shape_.heads + head(lane);
      if (capture.entropy) capture.entropy[at] = state.entropy();
      if (capture.lse) capture.lse[at] = state.lse();
      const float share = state.empty() ? 0.0f : 1.0f / state.l;
      if (capture.mass)
        for (int32_t g = 0; g < capture.segments; ++g)
          capture.mass[at * capture.segments + g] = mass_[int64_t{g} * lanes_ + lane] * share;
      if (!capture.key_mass) continue;
      const float* p = weights_ + lane;
      for (const AttentionSpan& span : spans_) {
        float* column = capture.key_mass + head(lane) * capture.key_span + span.index;
        for (int32_t j = 0; j < span.count; ++j, p += lanes_) column[j] += *p * share;
      }
    }
  }

  const AttentionShape& shape_;
  const AttentionKernel& kernel_;
  const AttentionItem& item_;
  const int32_t kv_head_, ratio_;
  int64_t first_ = 0;
  int32_t used_ = 0, vectors_ = 1, lanes_ = 0, least_ = 0, most_ = 0;
  std::vector<AttentionSpan> spans_;
  std::vector<int32_t> run_of_;
  float *q_ = nullptr, *o_ = nullptr, *weights_ = nullptr, *m_ = nullptr, *l_ = nullptr, *t_ = nullptr;
  float *gain_ = nullptr, *shift_ = nullptr, *mass_ = nullptr;
  int32_t limit_[2 * kMaxWidth];
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
    const bool ordered = items[i].capture && items[i].capture->key_mass;
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

namespace {

// One row and head by the definition: every visible key in list order, float64.
void reference_row(const AttentionShape& shape, const AttentionItem& item, int64_t row, int64_t head) {
  struct Key {
    double x;  // base-2 score
    const float* v;
    int32_t index, segment;
  };
  const int64_t dims = shape.head_dim, group = head / (shape.heads / shape.kv_heads);
  const float* q = item.q + row * item.q_stride + head * dims;
  std::vector<Key> keys;
  double m = kEmptyMax;
  for (int32_t r = 0; r < item.run_count; ++r) {
    const KeyRun& run = item.runs[r];
    const ScoreEdit edit = item.edits ? item.edits->at(head, row, r) : ScoreEdit{};
    if (edit.blocked) continue;
    for (int32_t j = 0; j < run.count && run.index + j <= item.limit[row]; ++j) {
      const float* k = run.k[group] + j * run.stride;
      double dot = 0.0;
      for (int64_t d = 0; d < dims; ++d) dot += static_cast<double>(q[d]) * k[d];
      const double x = (dot * shape.scale * edit.gamma + edit.beta) / std::log(2.0);
      keys.push_back({x, run.v[group] + j * run.stride, run.index + j, run.segment});
      m = std::max(m, x);
    }
  }
  const AttentionCapture* capture = item.capture;
  const bool captured = capture && (!capture->wanted || capture->wanted[row]);
  std::vector<double> o(dims, 0.0), mass(captured && capture->mass ? capture->segments : 0, 0.0);
  double l = 0.0, t = 0.0;
  for (const Key& key : keys) {
    const double p = std::exp2(key.x - m);
    l += p;
    t += p * (key.x - m);
    for (int64_t d = 0; d < dims; ++d) o[d] += p * key.v[d];
    if (!mass.empty()) mass[key.segment] += p;
  }
  float* out = item.out + row * item.out_stride + head * dims;
  for (int64_t d = 0; d < dims; ++d) out[d] = keys.empty() ? 0.0f : static_cast<float>(o[d] / l);
  if (!captured) return;
  const int64_t at = row * shape.heads + head;
  if (capture->entropy)
    capture->entropy[at] = keys.empty() ? 0.0f : static_cast<float>(std::log(2.0) * (std::log2(l) - t / l));
  if (capture->lse)
    capture->lse[at] =
        keys.empty() ? -std::numeric_limits<float>::infinity() : static_cast<float>(std::log(2.0) * (m + std::log2(l)));
  for (size_t g = 0; g < mass.size(); ++g)
    capture->mass[at * capture->segments + static_cast<int64_t>(g)] =
        keys.empty() ? 0.0f : static_cast<float>(mass[g] / l);
  if (capture->key_mass)
    for (const Key& key : keys)
      capture->key_mass[head * capture->key_span + key.index] += static_cast<float>(std::exp2(key.x - m) / l);
}

}  // namespace

void attention_reference(const AttentionShape& shape, const AttentionItem* items, int64_t count) {
  check(shape);
  for (int64_t i = 0; i < count; ++i)
    for (int64_t row = 0; row < items[i].rows; ++row)
      for (int64_t head = 0; head < shape.heads; ++head) reference_row(shape, items[i], row, head);
}

}  // namespace galvani
