// Elements of a tensor by the rank of a number computed from its inputs (largest tenth by magnitude, quartiles, …),
// exactly and without holding or sorting them: two counting passes over 16 bits each find the key at a rank, a third
// counts equal keys per chunk. Equal keys rank in storage order.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "core/dtype.h"
#include "ops/combine_passes.h"

namespace galvani {

// The order of non-negative floats, smallest first, or largest first.
inline uint32_t rank_key(float magnitude, bool descending) {
  const uint32_t bits = float_to_bits(magnitude) & 0x7fffffffu;
  return descending ? 0x7fffffffu - bits : bits;
}

// Writes tile.count keys of the given list.
using KeyFunction = std::function<void(const Tile&, size_t list, uint32_t* keys)>;

struct RankQuery {
  size_t list;   // which list of keys
  int64_t rank;  // 0 ≤ rank < elements
};
struct RankAnswer {
  uint32_t key = 0;     // of the element with that rank
  int64_t smaller = 0;  // elements with smaller keys
};
std::vector<RankAnswer> keys_at_ranks(const Passes& passes, const KeyFunction& keys, size_t lists,
                                      const std::vector<RankQuery>& queries);

// Keeps the elements of ranks [first, last) of each list.
struct RankRange {
  int64_t first, last;
};
class RankMask {
 public:
  RankMask(const Passes& passes, KeyFunction keys, const std::vector<RankRange>& ranges);
  // Sets values[i] to otherwise[i] outside the range of `list`. Within one pass, every tile of a chunk must come once
  // and in order.
  void apply(const Tile& tile, size_t list, const float* otherwise, float* values) const;

 private:
  struct Threshold {
    bool none = false;           // nothing is kept
    uint32_t low = 0, high = 0;  // keys of the first and last rank kept
    int64_t skip = 0, keep = 0;  // of the elements equal to low, those before `skip` go; of high, those from `keep` on
    std::vector<int64_t> low_before, high_before;  // (chunks) elements equal to low and to high in earlier chunks
  };
  const Passes& passes_;
  KeyFunction keys_;
  std::vector<Threshold> thresholds_;
  mutable std::vector<std::vector<int64_t>> seen_;  // [list][2 · chunk + {low, high}] within the running pass
};

}  // namespace galvani
