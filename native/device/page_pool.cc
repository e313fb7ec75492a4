#include "device/page_pool.h"

#include <algorithm>
#include <string>
#include <utility>

#include "core/status.h"

namespace galvani::gpu {

PagePool::PagePool(int64_t pages) {
  // A slot's number is an int32.
  if (pages < 0 || pages > (int64_t{1} << 31) / kPageKeys)
    throw Error(Code::kBadArgument, "key pages: " + std::to_string(pages) + " of them, at most " +
                                        std::to_string((int64_t{1} << 31) / kPageKeys));
  owners_.assign(static_cast<size_t>(pages), 0);
  for (int64_t page = pages; page > 0; --page) free_.push_back(static_cast<uint32_t>(page - 1));  // lowest first
}

uint32_t PagePool::take() {
  if (free_.empty())
    throw Error(Code::kOutOfMemory, "key pages: all " + std::to_string(pages()) + " are taken (" +
                                        std::to_string(pages() * kPageKeys) + " keys per layer)");
  const uint32_t page = free_.back();
  free_.pop_back();
  owners_[page] = 1;
  peak_ = std::max(peak_, taken());
  return page;
}

void PagePool::retain(uint32_t page) {
  GALVANI_CHECK(owners_.at(page) > 0);
  ++owners_[page];
}

void PagePool::release(uint32_t page) {
  GALVANI_CHECK(owners_.at(page) > 0);
  if (--owners_[page] == 0) free_.push_back(page);
}

PageSequence::~PageSequence() {
  for (const PageRun& run : runs_) pool_->release(run.page);
}

PageSequence::PageSequence(PageSequence&& other) noexcept
    : pool_(other.pool_),
      runs_(std::exchange(other.runs_, {})),
      keys_(std::exchange(other.keys_, 0)),
      own_(std::exchange(other.own_, false)) {}

PageSequence& PageSequence::operator=(PageSequence&& other) noexcept {
  std::swap(pool_, other.pool_);
  std::swap(runs_, other.runs_);
  std::swap(keys_, other.keys_);
  std::swap(own_, other.own_);
  return *this;
}

void PageSequence::append(uint8_t segment, int32_t count, std::vector<int32_t>& slots) {
  if (count < 0 || segment >= kMaxSegments)
    throw Error(Code::kBadArgument,
                "key pages: " + std::to_string(count) + " keys of segment " + std::to_string(segment));
  const bool continues = own_ && !runs_.empty() && runs_.back().segment == segment;
  const int32_t used = continues ? runs_.back().first + runs_.back().count : kPageKeys;
  const int32_t here = std::min(count, kPageKeys - used), pages = (count - here + kPageKeys - 1) / kPageKeys;
  if (pages > pool_->pages() - pool_->taken())
    throw Error(Code::kOutOfMemory, "key pages: " + std::to_string(pages) + " wanted for " + std::to_string(count) +
                                        " keys, " + std::to_string(pool_->pages() - pool_->taken()) + " of " +
                                        std::to_string(pool_->pages()) + " are free");
  const auto add = [&](int32_t keys) {
    PageRun& run = runs_.back();
    for (int32_t i = 0; i < keys; ++i)
      slots.push_back(static_cast<int32_t>(run.page) * kPageKeys + run.first + run.count + i);
    run.count = static_cast<uint16_t>(run.count + keys);
    keys_ += keys;
  };
  if (here > 0) add(here);
  for (int32_t left = count - here; left > 0; left -= kPageKeys) {
    runs_.push_back({pool_->take(), keys_, 0, 0, segment, 0});
    own_ = true;
    add(std::min(left, kPageKeys));
  }
}

PageSequence PageSequence::fork(int32_t keys) const {
  PageSequence out(*pool_);
  out.share(*this, 0, keys);
  return out;
}

void PageSequence::share(const PageSequence& from, int32_t begin, int32_t end, int32_t segment) {
  if (begin < 0 || end < begin || end > from.keys_ || segment >= kMaxSegments || from.pool_ != pool_)
    throw Error(Code::kBadArgument, "key pages: keys " + std::to_string(begin) + " … " + std::to_string(end) + " of " +
                                        std::to_string(from.keys_) + " cannot be shared");
  for (size_t r = 0, runs = from.runs_.size(); r < runs; ++r) {  // by position: `from` may be this sequence
    const PageRun run = from.runs_[r];
    const int32_t first = std::max(begin, run.index), last = std::min(end, run.index + run.count);
    if (first >= last) continue;
    hold({run.page, keys_, static_cast<uint16_t>(last - first), static_cast<uint8_t>(run.first + first - run.index),
          segment < 0 ? run.segment : static_cast<uint8_t>(segment), 0});
  }
}

void PageSequence::hold(const PageRun& run) {
  pool_->retain(run.page);
  runs_.push_back(run);
  keys_ += run.count;
  own_ = false;
}

}  // namespace galvani::gpu
