#include "model/kv_pages.h"

#include <algorithm>
#include <cstring>

#include "core/status.h"

namespace galvani {

// Pages are allocated and released by the engine thread alone, so the pool needs no lock.
std::shared_ptr<KvPage> KvArena::allocate() {
  std::unique_ptr<KvPage> page;
  if (!pool_->free.empty()) {
    page = std::move(pool_->free.back());
    pool_->free.pop_back();
  } else {
    page = std::make_unique<KvPage>();
    page->data.resize(static_cast<size_t>(page_bytes()) / sizeof(float));
  }
  pool_->peak = std::max(pool_->peak, ++pool_->live);
  return {page.release(), [pool = pool_](KvPage* returned) {
            --pool->live;
            pool->free.emplace_back(returned);
          }};
}

void KvArena::append(KeyList& list, std::shared_ptr<KvPage>& own_page, int32_t& own_used, int32_t index, const float* k,
                     const float* v) {
  if (!own_page || own_used == kPageKeys) {
    own_page = allocate();
    own_used = 0;
  }
  for (int32_t g = 0; g < kv_heads_; ++g) {
    std::memcpy(key(*own_page, g, own_used), k + int64_t{g} * head_dim_, head_dim_ * sizeof(float));
    std::memcpy(value(*own_page, g, own_used), v + int64_t{g} * head_dim_, head_dim_ * sizeof(float));
  }
  if (!list.empty() && list.back().page == own_page && list.back().index + list.back().count == index &&
      list.back().slot + list.back().count == own_used) {
    ++list.back().count;
  } else {
    list.push_back({own_page, own_used, 1, index});
  }
  ++own_used;
}

void KvArena::read(const KeyList& list, int32_t index, bool value_row, float* out) const {
  for (const KeySlice& slice : list) {
    if (index < slice.index || index >= slice.index + slice.count) continue;
    const int32_t slot = slice.slot + index - slice.index;
    for (int32_t g = 0; g < kv_heads_; ++g) {
      const float* from = value_row ? value(*slice.page, g, slot) : key(*slice.page, g, slot);
      std::memcpy(out + int64_t{g} * head_dim_, from, head_dim_ * sizeof(float));
    }
    return;
  }
  throw Error(Code::kInternal, "kv_pages: row " + std::to_string(index) + " is not in the list");
}

void append_slices(KeyList& to, const KeyList& from, int32_t begin, int32_t end, int32_t shift) {
  for (const KeySlice& slice : from) {
    const int32_t first = std::max(begin, slice.index), last = std::min(end, slice.index + slice.count);
    if (first >= last) continue;
    to.push_back({slice.page, slice.slot + first - slice.index, last - first, first + shift});
  }
}

void KeyRuns::build(const KvArena& arena, const KeyList& list, const std::vector<int32_t>& cuts,
                    const std::vector<int32_t>& segment_of) {
  runs_.clear();
  k_.clear();
  v_.clear();
  append(arena, list, cuts, segment_of);
}

void KeyRuns::append(const KvArena& arena, const KeyList& list, const std::vector<int32_t>& cuts,
                     const std::vector<int32_t>& segment_of) {
  kv_heads_ = arena.kv_heads();
  for (const KeySlice& slice : list) {
    int32_t begin = slice.index;
    const int32_t end = slice.index + slice.count;
    while (begin < end) {
      const auto cut = std::upper_bound(cuts.begin(), cuts.end(), begin);
      const int32_t stop = cut == cuts.end() ? end : std::min(end, *cut);
      const int32_t slot = slice.slot + begin - slice.index;
      for (int32_t g = 0; g < kv_heads_; ++g) {
        k_.push_back(arena.key(*slice.page, g, slot));
        v_.push_back(arena.value(*slice.page, g, slot));
      }
      runs_.push_back({nullptr, nullptr, arena.head_dim(), stop - begin, begin, segment_of[cut - cuts.begin()]});
      begin = stop;
    }
  }
}

const std::vector<KeyRun>& KeyRuns::finish() {
  for (size_t i = 0; i < runs_.size(); ++i) {
    runs_[i].k = k_.data() + i * kv_heads_;
    runs_[i].v = v_.data() + i * kv_heads_;
  }
  return runs_;
}

}  // namespace galvani
