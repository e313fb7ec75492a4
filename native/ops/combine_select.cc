#include "ops/combine_select.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <utility>

#include "core/status.h"

namespace galvani {
namespace {

constexpr size_t kBins = 1 << 16;

// Histograms lent to chunks and added up at the end: counts do not depend on who counted.
class Histograms {
 public:
  explicit Histograms(size_t size) : size_(size) {}
  std::vector<int64_t>* take() {
    std::lock_guard lock(mutex_);
    if (free_.empty()) {
      all_.push_back(std::make_unique<std::vector<int64_t>>(size_, 0));
      return all_.back().get();
    }
    std::vector<int64_t>* one = free_.back();
    free_.pop_back();
    return one;
  }
  void give(std::vector<int64_t>* one) {
    std::lock_guard lock(mutex_);
    free_.push_back(one);
  }
  std::vector<int64_t> total() const {
    std::vector<int64_t> sum(size_, 0);
    for (const auto& one : all_)
      for (size_t i = 0; i < size_; ++i) sum[i] += (*one)[i];
    return sum;
  }

 private:
  size_t size_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<std::vector<int64_t>>> all_;
  std::vector<std::vector<int64_t>*> free_;
};

// The bin that holds `rank`, which becomes the rank within the bin; returns the count below the bin.
int64_t find_bin(const int64_t* bins, int64_t& rank, uint32_t& bin) {
  int64_t below = 0;
  for (bin = 0; bin + 1 < kBins && below + bins[bin] <= rank; ++bin) below += bins[bin];
  rank -= below;
  return below;
}

}  // namespace

std::vector<RankAnswer> keys_at_ranks(const Passes& passes, const KeyFunction& keys, size_t lists,
                                      const std::vector<RankQuery>& queries) {
  const auto count = [&](size_t tables, const std::function<void(const uint32_t*, int64_t, size_t, int64_t*)>& add) {
    Histograms histograms(tables * kBins);
    passes.visit([&](const Tile& tile) {
      std::vector<int64_t>* own = histograms.take();
      std::vector<uint32_t> buffer(static_cast<size_t>(tile.count));
      for (size_t list = 0; list < lists; ++list) {
        keys(tile, list, buffer.data());
        add(buffer.data(), tile.count, list, own->data());
      }
      histograms.give(own);
    });
    return histograms.total();
  };
  const std::vector<int64_t> coarse = count(lists, [](const uint32_t* k, int64_t n, size_t list, int64_t* bins) {
    int64_t* own = bins + list * kBins;
    for (int64_t i = 0; i < n; ++i) ++own[k[i] >> 16];
  });
  std::vector<RankAnswer> out(queries.size());
  std::vector<int64_t> rank(queries.size());
  std::vector<uint32_t> high(queries.size());
  for (size_t q = 0; q < queries.size(); ++q) {
    GALVANI_CHECK(queries[q].rank >= 0 && queries[q].rank < passes.elements());
    rank[q] = queries[q].rank;
    out[q].smaller = find_bin(coarse.data() + queries[q].list * kBins, rank[q], high[q]);
  }
  const std::vector<int64_t> fine =
      count(queries.size(), [&](const uint32_t* k, int64_t n, size_t list, int64_t* bins) {
        for (size_t q = 0; q < queries.size(); ++q) {
          if (queries[q].list != list) continue;
          int64_t* own = bins + q * kBins;
          for (int64_t i = 0; i < n; ++i)
            if (k[i] >> 16 == high[q]) ++own[k[i] & 0xffffu];
        }
      });
  for (size_t q = 0; q < queries.size(); ++q) {
    uint32_t low;
    out[q].smaller += find_bin(fine.data() + q * kBins, rank[q], low);
    out[q].key = high[q] << 16 | low;
  }
  return out;
}

RankMask::RankMask(const Passes& passes, KeyFunction keys, const std::vector<RankRange>& ranges)
    : passes_(passes), keys_(std::move(keys)), thresholds_(ranges.size()) {
  const size_t lists = ranges.size(), chunks = static_cast<size_t>(passes.chunks());
  std::vector<RankQuery> queries;
  for (size_t list = 0; list < lists; ++list) {
    thresholds_[list].none = ranges[list].first >= ranges[list].last;
    if (thresholds_[list].none) continue;
    queries.push_back({list, ranges[list].first});
    queries.push_back({list, ranges[list].last - 1});
  }
  const std::vector<RankAnswer> answers = keys_at_ranks(passes, keys_, lists, queries);
  size_t next = 0;
  for (size_t list = 0; list < lists; ++list) {
    Threshold& t = thresholds_[list];
    seen_.emplace_back(2 * chunks, 0);
    t.low_before.assign(chunks, 0);
    t.high_before.assign(chunks, 0);
    if (t.none) continue;
    const RankAnswer &low = answers[next], &high = answers[next + 1];
    next += 2;
    t.low = low.key, t.high = high.key;
    t.skip = ranges[list].first - low.smaller;
    t.keep = ranges[list].last - high.smaller;
  }
  passes.visit([&](const Tile& tile) {
    std::vector<uint32_t> k(static_cast<size_t>(tile.count));
    for (size_t list = 0; list < lists; ++list) {
      Threshold& t = thresholds_[list];
      if (t.none) continue;
      keys_(tile, list, k.data());
      int64_t low = 0, high = 0;
      for (const uint32_t key : k) low += key == t.low, high += key == t.high;
      t.low_before[static_cast<size_t>(tile.chunk)] += low;
      t.high_before[static_cast<size_t>(tile.chunk)] += high;
    }
  });
  for (Threshold& t : thresholds_)
    for (auto* before : {&t.low_before, &t.high_before}) {
      int64_t sum = 0;
      for (int64_t& entry : *before) sum += std::exchange(entry, sum);
    }
}

void RankMask::apply(const Tile& tile, size_t list, const float* otherwise, float* values) const {
  const Threshold& t = thresholds_[list];
  if (t.none) {
    std::copy_n(otherwise, tile.count, values);
    return;
  }
  std::vector<uint32_t> k(static_cast<size_t>(tile.count));
  keys_(tile, list, k.data());
  int64_t* seen = seen_[list].data() + 2 * tile.chunk;
  if (tile.begin % passes_.chunk_elements() == 0) seen[0] = seen[1] = 0;
  int64_t low = t.low_before[static_cast<size_t>(tile.chunk)] + seen[0];
  int64_t high = t.high_before[static_cast<size_t>(tile.chunk)] + seen[1];
  const int64_t low_at_start = low, high_at_start = high;
  for (int64_t i = 0; i < tile.count; ++i) {
    const uint32_t key = k[static_cast<size_t>(i)];
    bool kept = key >= t.low && key <= t.high;
    if (key == t.low) kept &= low++ >= t.skip;
    if (key == t.high) kept &= high++ < t.keep;
    values[i] = kept ? values[i] : otherwise[i];
  }
  seen[0] += low - low_at_start;
  seen[1] += high - high_at_start;
}

}  // namespace galvani
