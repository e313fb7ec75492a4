// Eigenvalues and leading eigenvectors of a real symmetric matrix, and one-sided Jacobi, float64 throughout.
//
//   Householder tridiagonalisation, in panels of 32 columns (Golub & Van Loan, Matrix Computations, §8.3.1)
//   implicit QR with Wilkinson's shift on the tridiagonal (ibid. §8.3.5)
//   inverse iteration for the leading eigenvectors (ibid. §8.4)
//   one-sided Jacobi for small matrices whose small singular values matter (ibid. §8.6.3)
//
// Error: every computed eigenvalue is that of a matrix at distance ≤ c·k·ε·‖A‖₂ (c about 1). The work split does not
// depend on the number of threads, so neither do the bits.
#pragma once
#include <cstdint>
#include <vector>

#include "core/parallel.h"

namespace galvani {

struct SymmetricEigen {
  std::vector<double> values;   // (k), descending
  std::vector<double> vectors;  // (leading, k) row-major, orthonormal rows
};

// a: (k, k) row-major, upper triangle read and overwritten. leading ≤ k eigenvectors of the largest eigenvalues.
SymmetricEigen symmetric_eigen(std::vector<double>& a, int64_t k, int64_t leading, ThreadPool& pool,
                               const Poll& poll = {});

// Singular values (descending) of the matrix whose `count` columns of `length` entries lie one after the other in a
// (overwritten), and optionally its right singular vectors: (count, count) row-major, row i belongs to value i.
// count ≤ length. A QR step first when length > count.
struct JacobiResult {
  std::vector<double> values;
  std::vector<double> right;
};
JacobiResult jacobi_svd(std::vector<double>& a, int64_t length, int64_t count, bool want_right, ThreadPool& pool);

}  // namespace galvani
