// Singular values of a matrix of any size, its leading singular subspaces, and what is said about them (METHODS §2).
//
// Two paths, k = small side, N = long side, ε = 2⁻⁵²:
//   gram    eigenvalues of the float64 Gram matrix. k²N/2 multiply-adds, memory 8k² bytes. |σ̂ − σ| ≤ k ε σ1²/σ, so
//           values below resolution = σ1·sqrt(k ε) (9e-7 σ1 for k = 3584) are lost.
//   direct  Householder QR and one-sided Jacobi. |σ̂ − σ| ≤ resolution = 8 k ε σ1. Holds k·N doubles.
// Values below the resolution are returned as 0 and not counted in `resolved`; no measure below uses them.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ops/gram.h"

namespace galvani {

enum class SpectrumMethod { kAuto, kGram, kDirect };  // auto: direct up to k = 160 and 2²⁴ entries

struct Spectrum {
  std::vector<double> values;  // (k), descending; 0 = below resolution
  double resolution = 0;
  SpectrumMethod method = SpectrumMethod::kGram;
  // Leading singular vectors, orthonormal rows; at most as many as asked for, only of values ≥ max(resolution·10, 1e-6
  // σ1).
  int64_t leading = 0;
  std::vector<double> left;   // (leading, rows)
  std::vector<double> right;  // (leading, columns)
};
Spectrum spectrum(const MatrixSource& a, SpectrumMethod method, int64_t leading, ThreadPool& pool,
                  const Poll& poll = {});

// Measures of a list of singular values. Absent = not defined (no non-zero value, or one below the resolution).
struct SpectrumMeasures {
  double spectral_norm = 0;                // σ1
  double nuclear_norm = 0;                 // Σσ
  double frobenius_norm = 0;               // ‖σ‖₂
  int64_t resolved = 0;                    // values above the resolution
  std::optional<double> stable_rank;       // ‖σ‖₂² / σ1²
  std::optional<double> effective_rank;    // exp(H(σ/Σσ)), Roy & Vetterli 2007
  std::optional<double> condition_number;  // σ1/σk
  std::optional<double> log_volume;        // Σ ln σ_i over the top min(top, k) values
};
SpectrumMeasures measure(const std::vector<double>& values, int64_t top);

// Cosines of the principal angles between the spans of the rows of a (p, n) and b (q, n), both orthonormal;
// min(p, q) values, descending.
std::vector<double> principal_cosines(const std::vector<double>& a, int64_t p, const std::vector<double>& b, int64_t q,
                                      int64_t n, ThreadPool& pool);

}  // namespace galvani
