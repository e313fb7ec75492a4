// The noise floor: what storing weights in few bits adds to the spectrum of an update.
//
// With u = the spacing of the stored dtype at W_after, an update of true size x·u is stored as a whole number of
// spacings: ⌊x⌋ or ⌈x⌉, and which one depends on where the weight lay between two stored values. Over that position the
// stored update is unbiased, with variance u² f(1−f), f = frac(x): the classical dithered quantiser. For x ≫ 1 this is
// u²/6; for x ≪ 1 it is u²x: nearly all of the energy of the few entries that flip. Only the mean size is needed:
// entries are grouped by u (one group per binade of W), c̄ = mean of |Δ|/u over a group estimates its mean x, and with
// x half-normal of mean c̄ (Fourier series of f(1−f))
//
//     n(c̄) = E[f(1−f)] = 1/6 − Σ_{j≥1} exp(−π³ j² c̄²) / (π² j²)        → c̄ − (π/2) c̄²  for c̄ → 0
//
// The noise of a group is spread over its entries in proportion to min(|Δ|/u, 1)², so it lies where something moved
// (an update confined to a few rows has its floor there; a tensor that did not change has none), and given random
// signs, which leaves no structure: N_ij = ± u_ij sqrt(n · min(c_ij,1)² / mean min(c,1)²). The spectrum of N is the
// floor. If training started exactly from the stored before-weights, only one of two roundings happened and the floor
// is too high by at most √2 in σ, on the safe side.
#pragma once
#include <cstdint>
#include <vector>

#include "core/tensor.h"
#include "ops/gram.h"

namespace galvani {

// Distance between neighbouring stored values at |value|, in the binade of value. Never 0.
double spacing(float value, DType dtype);

class RoundingNoise {
 public:
  // Reads both tensors once. The views must outlive the object. SHAPE_MISMATCH, UNSUPPORTED as delta_sums.
  RoundingNoise(const TensorView& before, const TensorView& after, ThreadPool& pool);

  // Σ N², exact over all draws (the signs do not change it).
  double square() const { return square_; }
  // One draw as a matrix of rows × (elements / rows). Equal seeds give equal entries, whatever the blocks asked for.
  MatrixSource draw(uint64_t seed) const;
  // The same draw made once and kept in bf16 (2 bytes an entry; 2^−9 of each is nothing to a simulation), for methods
  // that read it many times. Above 2^28 entries it is made anew at every reading.
  MatrixSource kept_draw(uint64_t seed, ThreadPool& pool) const;

 private:
  const TensorView& before_;
  const TensorView& after_;
  int64_t rows_, columns_;
  std::vector<double> amplitude_;  // sqrt(n / mean min(c,1)²) by exponent field of W_after
  double square_ = 0;
};

// n(c̄) above.
double rounding_energy(double mean_steps);

}  // namespace galvani
