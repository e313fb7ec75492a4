// Which pages of the arena are taken, and sequences of keys as lists of page runs over them.
//
// Every segment starts a page, so that a page is uniform. Pages are counted: a fork shares its parent's pages and
// continues on pages of its own, since the parent may still be writing the last one. Pages are written in order and
// never twice, so a list stays valid while others grow. One thread at a time.
#pragma once
#include <cstdint>
#include <vector>

#include "ops/gpu/attn_types.h"

namespace galvani::gpu {

class PagePool {
 public:
  explicit PagePool(int64_t pages);

  uint32_t take();  // with one owner; kOutOfMemory when none is left
  void retain(uint32_t page);
  void release(uint32_t page);
  int64_t pages() const { return static_cast<int64_t>(owners_.size()); }
  int64_t taken() const { return pages() - static_cast<int64_t>(free_.size()); }
  int64_t peak() const { return peak_; }

 private:
  std::vector<int32_t> owners_;  // by page
  std::vector<uint32_t> free_;
  int64_t peak_ = 0;
};

// The keys of one sequence. Holds its pages until it goes; the pool must outlive it.
class PageSequence {
 public:
  explicit PageSequence(PagePool& pool) : pool_(&pool) {}
  ~PageSequence();
  PageSequence(PageSequence&& other) noexcept;
  PageSequence& operator=(PageSequence&& other) noexcept;

  // Adds `count` keys of a segment; their arena slots (KvAppendParams::slot) are appended to `slots`. Keys of the
  // segment added last continue its page; another segment, or a fork, starts a fresh one. All or nothing.
  void append(uint8_t segment, int32_t count, std::vector<int32_t>& slots);
  // The keys with logical index < `keys`, shared.
  PageSequence fork(int32_t keys) const;
  // Adds keys [begin, end) of another sequence under the next indices, shared: a graft. `segment` < 0 keeps theirs.
  void share(const PageSequence& from, int32_t begin, int32_t end, int32_t segment = -1);

  const std::vector<PageRun>& runs() const { return runs_; }
  int32_t keys() const { return keys_; }  // the next logical index

 private:
  void hold(const PageRun& run);

  PagePool* pool_;
  std::vector<PageRun> runs_;  // each run owns its page once
  int32_t keys_ = 0;
  bool own_ = false;  // the last run's page is ours to write, behind that run
};

}  // namespace galvani::gpu
