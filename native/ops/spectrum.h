// Singular values of a matrix of any size, its leading singular subspaces, and what is said about them (METHODS §2).
//
// Three paths, k = small side, N = long side, ε = 2⁻⁵²:
//   gram    eigenvalues of the float64 Gram matrix, by the own routine (ops/eigen.h), the LAPACK that GALVANI_LAPACK
//           names (ops/lapack.h) or, on a device, the cuSOLVER that GALVANI_CUSOLVER names (ops/gpu/cusolver.h). k²N/2 multiply-adds, memory 8k² bytes. |σ̂ − σ| ≤ k ε σ1²/σ, so values below
//           resolution = σ1·sqrt(k ε) (9e-7 σ1 for k = 3584) are lost.
//   direct  Householder QR and one-sided Jacobi. |σ̂ − σ| ≤ resolution = 8 k ε σ1. Holds k·N doubles.
//   top     the leading values and subspaces alone, by block Krylov iteration (ops/krylov.h): a few passes, memory of a
//           few hundred vectors. Each value has its own bound.
// Values below the resolution are returned as 0 and not counted in `resolved`; no measure below uses them.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ops/gram.h"
#include "ops/krylov.h"

namespace galvani {

enum class SpectrumMethod { kAuto, kGram, kDirect, kTop };  // auto: direct up to k = 160 and 2²⁴ entries, else gram

struct Spectrum {
  std::vector<double> values;  // (k), descending; 0 = below resolution. kTop: the first `leading` only
  std::vector<double> bounds;  // kTop: |σ̂ − σ| ≤ bounds[i] for some singular value σ each; else empty
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
  std::optional<double> nuclear_norm;      // Σσ
  double frobenius_norm = 0;               // ‖σ‖₂
  int64_t resolved = 0;                    // values above the resolution
  std::optional<double> stable_rank;       // ‖σ‖₂² / σ1²
  std::optional<double> participation_ratio;  // (Σσ²)² / Σσ⁴
  std::optional<double> effective_rank;    // exp(H(σ/Σσ)), Roy & Vetterli 2007
  std::optional<double> condition_number;  // σ1/σk
  std::optional<double> log_volume;        // Σ ln σ_i over the top min(top, k) values
};
SpectrumMeasures measure(const std::vector<double>& values, int64_t top);
// Of leading values alone, with ‖A‖_F² known: σ1, ‖A‖_F, stable rank and log-volume; the others stay absent.
SpectrumMeasures measure_leading(const std::vector<double>& values, double square, int64_t top);
// Of k values known by their distribution.
SpectrumMeasures measure(const LanczosEstimate& estimate, int64_t k);

// Cosines of the principal angles between the spans of the rows of a (p, n) and b (q, n), both orthonormal;
// min(p, q) values, descending.
std::vector<double> principal_cosines(const std::vector<double>& a, int64_t p, const std::vector<double>& b, int64_t q,
                                      int64_t n, ThreadPool& pool);

}  // namespace galvani
