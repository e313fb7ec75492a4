// G = A Aᵀ (rows ≤ columns) or Aᵀ A (rows > columns): the small side's inner products, float64.
//
// A need not exist in memory: its entries come block by block as float32 from a MatrixSource (a difference of two
// mapped tensors, say), are widened to float64 and packed. A product of two float32 is exact in float64 and each entry
// of G is summed along the long side in order, so G has the same bits whatever the threads and instruction set.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "core/parallel.h"
#include "ops/eigen.h"

namespace galvani {

struct MatrixSource {
  int64_t rows = 0, columns = 0;
  // Writes the block [row, row + n) × [column, column + m) to out (n × m, row-major). Called from several threads.
  std::function<void(int64_t row, int64_t n, int64_t column, int64_t m, float* out)> block;

  // Where the entries lie on a device, its own ways to gram() and to the eigenvalues of it with `leading` vectors (where a
  // library there is asked for); empty on the CPU.
  std::function<std::vector<double>()> gram_there = {};
  std::function<SymmetricEigen(int64_t leading)> eigen_there = {};

  int64_t small_side() const { return rows < columns ? rows : columns; }
  int64_t long_side() const { return rows < columns ? columns : rows; }
};

// (k, k) row-major, k = small_side(); the upper triangle and diagonal are set, the rest is zero.
std::vector<double> gram(const MatrixSource& a, ThreadPool& pool, const Poll& poll = {});

}  // namespace galvani
