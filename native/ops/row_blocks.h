// Cuts rows into blocks for the pool, or runs in place when the work is smaller than waking a thread costs.
#pragma once
#include <algorithm>
#include <cstdint>

#include "core/parallel.h"

namespace galvani {

// body(begin, end) over [0, rows); `cost` is roughly the floats touched per row.
template <typename Body>
void for_row_blocks(ThreadPool& pool, int64_t rows, int64_t cost, const Body& body) {
  constexpr int64_t kFloatsPerTask = 1 << 14;  // a few microseconds of memory traffic
  const int64_t block = std::max<int64_t>(1, kFloatsPerTask / std::max<int64_t>(1, cost));
  if (pool.threads() == 1 || rows <= block) {
    if (rows > 0) body(int64_t{0}, rows);
    return;
  }
  pool.run((rows + block - 1) / block, [&](int64_t task) { body(task * block, std::min(rows, (task + 1) * block)); });
}

}  // namespace galvani
