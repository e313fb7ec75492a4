// What a few passes over a matrix tell of its singular values, without its Gram matrix. Float64; k = small side.
//
//   lanczos   single-vector Lanczos on the small side's Gram operator: σ1, and by Gauss quadrature the distribution of
//             all values (Golub & Meurant 1994; Ubaru, Chen & Saad 2017). For noise, whose spectrum is a bulk with an
//             edge: with 20 steps σ1 is within 1 % and sums over the values within a few √(1/k).
//   leading   block Krylov with Rayleigh–Ritz (Musco & Musco 2015): the top values and both subspaces. Each value comes
//             with the bound ‖Gy − θy‖/σ: some true singular value lies that close.
//
// Both cost one pass over the matrix per step. The split of the work does not depend on the number of threads, so
// neither do the bits.
#pragma once
#include <cstdint>
#include <vector>

#include "core/parallel.h"
#include "ops/gram.h"

namespace galvani {

struct LanczosEstimate {
  double largest = 0;          // σ1, from above: Ritz value plus its residual
  std::vector<double> nodes;   // singular values, descending
  std::vector<double> shares;  // of the k values each node stands for; sums to 1

  // k values with this distribution, descending: a curve to draw, not the values themselves. 0: below the resolution of a
  // Gram matrix.
  std::vector<double> curve(int64_t k) const;
};
// square: ‖A‖_F² when known, to which the nodes are then scaled; 0 otherwise.
LanczosEstimate lanczos(const MatrixSource& a, int steps, uint64_t seed, double square, ThreadPool& pool,
                        const Poll& poll = {});

struct LeadingOptions {
  int passes = 6;            // at most
  double tolerance = 1e-6;   // ends when every wanted residual ‖Gy − θy‖ is below this share of θ
  uint64_t seed = 1;
};
struct Leading {
  int64_t count = 0;           // ≤ rank asked for: fewer when the matrix has fewer values above 1e-6 σ1
  std::vector<double> values;  // (count), descending
  std::vector<double> bounds;  // (count)
  std::vector<double> left;    // (count, rows), orthonormal rows
  std::vector<double> right;   // (count, columns)
};
Leading leading(const MatrixSource& a, int64_t rank, const LeadingOptions& options, ThreadPool& pool,
                const Poll& poll = {});

// Rows of `vectors` (count, k) on the small side, orthonormal singular vectors of `values`, carried to the long side:
// (count, long side), orthonormal rows. One pass.
std::vector<double> long_side_vectors(const MatrixSource& a, const std::vector<double>& vectors,
                                      const std::vector<double>& values, int64_t count, ThreadPool& pool,
                                      const Poll& poll = {});

}  // namespace galvani
