#include "ops/attention_capture.h"

#include <algorithm>

#include "ops/softmax_state.h"

namespace galvani {
namespace {

// A captured lane: where it goes, and the list of its largest keys so far.
struct Lane {
  int32_t lane, row, head;
  int32_t low, limit;
  float share;  // 1 / l, 0 for an empty row
  int64_t at;   // (captured row, head)
  int32_t found = 0;
};

// Keeps `weight` and `index` the largest so far, descending; an equal weight stays behind those that came earlier.
void offer(Lane& lane, int32_t k, float p, int32_t key, float* weight, int32_t* index) {
  if (lane.found == k && !(p > weight[k - 1])) return;
  int32_t place = lane.found < k ? lane.found++ : k - 1;
  for (; place > 0 && p > weight[place - 1]; --place) {
    weight[place] = weight[place - 1];
    index[place] = index[place - 1];
  }
  weight[place] = p;
  index[place] = key;
}

// The read-outs that need single keys: weights `p` (L apart) of keys first … last − 1 of a span.
void read_keys(const AttentionCapture& capture, Lane& lane, const AttentionSpan& span, bool blocked, int32_t first,
               int32_t last, const float* p, int64_t lanes) {
  if (capture.key_mass) {
    float* column = capture.key_mass + lane.head * capture.key_span + span.index;
    for (int32_t j = first; j < last; ++j) column[j] += p[(j - first) * lanes] * lane.share;
  }
  if (capture.pattern) {
    float* column = capture.pattern + lane.at * capture.key_span + span.index;
    for (int32_t j = first; j < last; ++j) column[j] += p[(j - first) * lanes] * lane.share;
  }
  if (!capture.top_index || capture.top_k <= 0 || blocked) return;
  float* weight = capture.top_weight + lane.at * capture.top_k;
  int32_t* index = capture.top_index + lane.at * capture.top_k;
  for (int32_t j = first; j < last; ++j) {
    const int32_t key = span.index + j;
    if (key >= lane.low && key <= lane.limit) offer(lane, capture.top_k, p[(j - first) * lanes], key, weight, index);
  }
}

}  // namespace

void read_out(const FinishedTile& finished, const AttentionCapture& capture) {
  const AttentionItem& item = *finished.item;
  const AttentionTile& tile = *finished.tile;
  const int64_t lanes = finished.lanes;
  Lane wanted[2 * kMaxWidth];
  int32_t count = 0;
  for (int32_t i = 0; i < finished.used; ++i) {
    const int32_t row = finished.row[i], head = finished.head[i];
    const int64_t to = capture.row ? capture.row[row] : row;
    if (to < 0) continue;
    SoftmaxState state;
    state.m = tile.m[i];
    state.l = tile.l[i];
    state.t = tile.t[i];
    const int64_t at = to * finished.heads + head;
    const float share = state.empty() ? 0.0f : 1.0f / state.l;
    wanted[count++] = {i, row, head, tile.low ? tile.low[i] : INT32_MIN, tile.limit[i], share, at};
    if (capture.entropy) capture.entropy[at] = state.entropy();
    if (capture.lse) capture.lse[at] = state.lse();
    if (capture.mass)
      for (int32_t g = 0; g < capture.segments; ++g)
        capture.mass[at * capture.segments + g] = finished.mass[g * lanes + i] * share;
    if (capture.pattern) std::fill_n(capture.pattern + at * capture.key_span, capture.key_span, 0.0f);
    if (capture.top_index) {
      std::fill_n(capture.top_index + at * capture.top_k, capture.top_k, -1);
      std::fill_n(capture.top_weight + at * capture.top_k, capture.top_k, 0.0f);
    }
  }
  if (count == 0 || (!capture.key_mass && !capture.pattern && !capture.top_index)) return;

  constexpr int32_t kBlock = 64;  // keys whose weights stay in cache while all lanes read their own
  const float* p = tile.weights;
  for (int32_t s = 0; s < tile.span_count; ++s) {
    const AttentionSpan& span = tile.spans[s];
    for (int32_t first = 0; first < span.count; first += kBlock) {
      const int32_t last = std::min(first + kBlock, span.count);
      for (int32_t i = 0; i < count; ++i) {
        Lane& lane = wanted[i];
        const bool blocked = item.edits && item.edits->at(lane.head, lane.row, finished.run_of[s]).blocked;
        read_keys(capture, lane, span, blocked, first, last, p + lane.lane, lanes);
      }
      p += (last - first) * lanes;
    }
  }
  if (!capture.top_index) return;
  for (int32_t i = 0; i < count; ++i)
    for (int32_t j = 0; j < wanted[i].found; ++j)
      capture.top_weight[wanted[i].at * capture.top_k + j] *= wanted[i].share;
}

}  // namespace galvani
