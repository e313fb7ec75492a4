// Paged keys and values. A page holds kPageKeys rows of one layer, all KV heads, keys then values, float32:
//   page: [K | V][G][kPageKeys][D]
// A run's keys at one layer are a KeyList: slices of pages in logical order. Swapping, prefix sharing and forks are
// different lists over the same pages; nothing is copied. Pages are reference counted and recycled.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "ops/attention.h"

namespace galvani {

inline constexpr int32_t kPageKeys = 32;  // a 30-token lab prompt should not pay for 64

struct KvPage {
  std::vector<float> data;
};

// Slots [slot, slot + count) of a page hold the keys with logical indices index, index + 1, …
struct KeySlice {
  std::shared_ptr<KvPage> page;
  int32_t slot = 0;
  int32_t count = 0;
  int32_t index = 0;
};
using KeyList = std::vector<KeySlice>;  // ascending, disjoint logical indices

class KvArena {
 public:
  KvArena(int32_t kv_heads, int32_t head_dim) : kv_heads_(kv_heads), head_dim_(head_dim) {}

  std::shared_ptr<KvPage> allocate();
  int64_t page_bytes() const {
    return int64_t{2} * kv_heads_ * kPageKeys * head_dim_ * static_cast<int64_t>(sizeof(float));
  }
  int64_t peak_bytes() const { return pool_->peak * page_bytes(); }

  // Row `slot` of head g.
  float* key(KvPage& page, int32_t g, int32_t slot) const {
    return page.data.data() + (int64_t{g} * kPageKeys + slot) * head_dim_;
  }
  float* value(KvPage& page, int32_t g, int32_t slot) const { return key(page, kv_heads_ + g, slot); }

  // Appends one key row (G·D floats each) to a list; extends the last page when it is this list's own and has room.
  // `own_page`: page most recently allocated by this writer.
  void append(KeyList& list, std::shared_ptr<KvPage>& own_page, int32_t& own_used, int32_t index, const float* k,
              const float* v);

  // Copies the key or value of logical row `index` into out (G·D floats). The row must be in the list.
  void read(const KeyList& list, int32_t index, bool value, float* out) const;

  int32_t kv_heads() const { return kv_heads_; }
  int32_t head_dim() const { return head_dim_; }

 private:
  // Shared with the deleters of pages, which may outlive the arena.
  struct Pool {
    std::vector<std::unique_ptr<KvPage>> free;
    int64_t live = 0, peak = 0;
  };
  int32_t kv_heads_, head_dim_;
  std::shared_ptr<Pool> pool_ = std::make_shared<Pool>();
};

// Appends to `to` the part of `from` whose logical indices lie in [begin, end), renumbered by `shift`.
void append_slices(KeyList& to, const KeyList& from, int32_t begin, int32_t end, int32_t shift);

// Attention's view of a list, cut at `cuts` (sorted logical indices) so that every run is uniform.
class KeyRuns {
 public:
  // segment_of[i] is the segment of keys in [cuts[i−1], cuts[i]); keys ≥ the last cut get segment_of.back().
  void build(const KvArena& arena, const KeyList& list, const std::vector<int32_t>& cuts,
             const std::vector<int32_t>& segment_of);
  void append(const KvArena& arena, const KeyList& list, const std::vector<int32_t>& cuts,
              const std::vector<int32_t>& segment_of);
  const std::vector<KeyRun>& finish();  // fixes pointers; call once after building

 private:
  int32_t kv_heads_ = 0;
  std::vector<KeyRun> runs_;
  std::vector<const float*> k_, v_;
};

}  // namespace galvani
