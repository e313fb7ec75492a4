// Sequences that grow, fork, graft and go at random, against plain lists of who wrote which slot.
#include "device/page_pool.h"

#include <map>
#include <memory>
#include <set>
#include <string>

#include "core/status.h"
#include "core/testing.h"

namespace galvani::gpu {
namespace {

using testing::Random;

struct Key {
  int32_t slot, segment;
  bool operator==(const Key&) const = default;
};
// A sequence and what it should hold, key by key.
struct Model {
  PageSequence sequence;
  std::vector<Key> keys;
};

std::vector<Key> listed(const PageSequence& sequence) {
  std::vector<Key> out;
  for (const PageRun& run : sequence.runs()) {
    EXPECT(run.index == static_cast<int32_t>(out.size()) && run.count > 0 && run.first + run.count <= kPageKeys,
           "a run");
    for (int32_t i = 0; i < run.count; ++i)
      out.push_back({static_cast<int32_t>(run.page) * kPageKeys + run.first + i, run.segment});
  }
  return out;
}

void random_lives(uint64_t seed) {
  Random random(seed);
  PagePool pool(60);
  std::vector<std::unique_ptr<Model>> models;
  int64_t full = 0;
  for (int step = 0; step < 400; ++step) {
    const int64_t what = random.below(10);
    if (models.empty() || what == 0) {
      models.push_back(std::make_unique<Model>(Model{PageSequence(pool), {}}));
      continue;
    }
    Model& model = *models[static_cast<size_t>(random.below(static_cast<int64_t>(models.size())))];
    const int32_t size = static_cast<int32_t>(model.keys.size());
    if (what <= 5) {
      const uint8_t segment = static_cast<uint8_t>(random.below(3));
      const int32_t count = static_cast<int32_t>(random.below(150));
      std::vector<int32_t> slots;
      const int64_t taken = pool.taken();
      try {
        model.sequence.append(segment, count, slots);
      } catch (const Error& error) {
        ++full;
        EXPECT(error.code() == Code::kOutOfMemory && slots.empty() && pool.taken() == taken, "all or nothing");
        models.erase(models.begin());
        continue;
      }
      // A page is written by one sequence and one segment only, and no slot that anybody can see is written again.
      std::set<int32_t> live;
      std::map<int32_t, int32_t> segment_of;
      for (const auto& other : models)
        for (const Key& key : other->keys) live.insert(key.slot);
      for (const Key& key : model.keys) segment_of[key.slot / kPageKeys] = key.segment;
      EXPECT(static_cast<int32_t>(slots.size()) == count, "a slot for every key");
      for (const int32_t slot : slots) {
        EXPECT(live.insert(slot).second, "a slot is written twice");
        const auto [at, fresh] = segment_of.try_emplace(slot / kPageKeys, segment);
        EXPECT(at->second == segment && (!fresh || slot % kPageKeys == 0), "a segment starts a page");
        model.keys.push_back({slot, segment});
      }
    } else if (what <= 7) {
      const int32_t keep = static_cast<int32_t>(random.below(size + 1));
      models.push_back(
          std::make_unique<Model>(Model{model.sequence.fork(keep), {model.keys.begin(), model.keys.begin() + keep}}));
    } else if (what == 8) {
      Model& from = *models[static_cast<size_t>(random.below(static_cast<int64_t>(models.size())))];
      const int32_t begin = static_cast<int32_t>(random.below(static_cast<int64_t>(from.keys.size()) + 1));
      const int32_t end =
          begin + static_cast<int32_t>(random.below(static_cast<int64_t>(from.keys.size()) - begin + 1));
      const int32_t segment = static_cast<int32_t>(random.below(4)) - 1;
      model.sequence.share(from.sequence, begin, end, segment);
      const std::vector<Key> grafted(from.keys.begin() + begin, from.keys.begin() + end);
      for (const Key& key : grafted) model.keys.push_back({key.slot, segment < 0 ? key.segment : segment});
    } else {
      models.erase(models.begin() + random.below(static_cast<int64_t>(models.size())));
    }
    std::set<int32_t> pages;
    for (const auto& each : models) {
      EXPECT(listed(each->sequence) == each->keys && each->sequence.keys() == static_cast<int32_t>(each->keys.size()),
             "seed " + std::to_string(seed) + ": a list");
      for (const Key& key : each->keys) pages.insert(key.slot / kPageKeys);
    }
    EXPECT(pool.taken() == static_cast<int64_t>(pages.size()), "pages nobody lists are free, the others taken");
  }
  EXPECT(full > 0 && pool.peak() > 50, "the pool was never full");
  models.clear();
  EXPECT(pool.taken() == 0, "everything comes back");
}

void refusals() {
  const auto code = [](auto action) {
    try {
      action();
    } catch (const Error& error) {
      return error.code();
    }
    return Code::kClosed;
  };
  PagePool pool(2), other(2);
  std::vector<int32_t> slots;
  PageSequence sequence(pool);
  EXPECT(code([&] { PagePool(-1); }) == Code::kBadArgument, "a negative pool");
  EXPECT(code([&] { PagePool((int64_t{1} << 31) / kPageKeys + 1); }) == Code::kBadArgument, "slots beyond an int32");
  EXPECT(code([&] { sequence.append(kMaxSegments, 1, slots); }) == Code::kBadArgument, "a segment");
  EXPECT(code([&] { sequence.append(0, -1, slots); }) == Code::kBadArgument, "a count");
  sequence.append(0, 3, slots);
  EXPECT(code([&] { sequence.fork(4); }) == Code::kBadArgument, "more keys than there are");
  PageSequence elsewhere(other);
  EXPECT(code([&] { elsewhere.share(sequence, 0, 1); }) == Code::kBadArgument, "another pool's keys");
  EXPECT(code([&] { sequence.append(1, 65, slots); }) == Code::kOutOfMemory && slots.size() == 3, "two pages of one");
  sequence = sequence.fork(2);
  EXPECT(pool.taken() == 1, "assignment releases what was held");
}

}  // namespace
}  // namespace galvani::gpu

int main() {
  for (uint64_t seed = 0; seed < 15; ++seed) galvani::gpu::random_lives(seed);
  galvani::gpu::refusals();
  return galvani::testing::report();
}
