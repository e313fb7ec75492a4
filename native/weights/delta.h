// What training changed in a checkpoint, tensor by tensor (METHODS §2): two or three checkpoints of one model, mapped.
// The sums read every byte once, in the order of the files, and give pages back band by band, so that memory does not
// grow with the checkpoint; spectra read a matrix again. Knows nothing of names' meaning.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "device/backend.h"
#include "io/safetensors.h"
#include "ops/reduce.h"
#include "ops/spectrum.h"

namespace galvani {

// One tensor under the name each checkpoint gives it; `names` has as many entries as there are checkpoints.
struct TensorKey {
  std::string name;  // how the result calls it
  std::vector<std::string> names;
};

struct DeltaOptions {
  bool spectra = false;  // singular values of Δ and of its noise floor, for tensors of two or more dimensions
  SpectrumMethod method = SpectrumMethod::kAuto;
  bool floor = true;     // with spectra: simulate the rounding floor
  uint64_t seed = 0;     // of the floor's signs
  int64_t subspace = 0;  // with spectra: compare the leading subspaces of this dimension; kTop: also how many values
  int64_t top = 50;      // log-volume of the top values
  bool mass = false;     // Σ Δ² per row and column
  // Where the sums and Gram matrices are computed: null, or a device that every tensor is then copied to once. Tensors of
  // a type it does not read stay on the CPU.
  const gpu::Backend* device = nullptr;
};

// The spectrum expected from storage rounding alone (ops/rounding.h), and the update's spectrum above it.
struct Floor {
  std::vector<double> values;  // (k) of the first draw; draws = 1: a curve of their distribution (ops/krylov.h)
  double edge = 0;             // (1 + k^(−2/3)) · largest σ1 over the draws; an update's value above it is signal
  double frobenius_norm = 0;
  SpectrumMeasures measures;
  int draws = 0;
  int64_t rank_above = 0;  // values of Δ above the edge
  SpectrumMeasures above;  // measures of those values alone
};

struct StepSpectrum {
  Spectrum spectrum;
  SpectrumMeasures measures;
  std::optional<Floor> floor;
  // Principal-angle cosines of Δ's leading subspaces with those of the weight before the step.
  std::vector<double> weight_left, weight_right;
};

struct TensorDelta {
  std::string name;
  std::vector<DType> dtypes;  // one per checkpoint
  std::vector<int64_t> shape;
  DeltaSums sums;
  std::vector<std::optional<StepSpectrum>> spectra;  // one per step; none for vectors or non-finite entries
  std::vector<double> pair_left, pair_right;         // Δ_0 against Δ_1
};

// done and total count elements.
using DeltaProgress = std::function<void(int64_t done, int64_t total)>;

// 2 or 3 checkpoints. TENSOR_MISSING, SHAPE_MISMATCH (names the tensor and both files), UNSUPPORTED (integer tensors).
std::vector<TensorDelta> compare(const std::vector<std::shared_ptr<Checkpoint>>& checkpoints,
                                 const std::vector<TensorKey>& keys, const DeltaOptions& options, ThreadPool& pool,
                                 const DeltaProgress& progress, const Poll& poll);

// For each key: are dtype, shape and stored bytes equal in both checkpoints? TENSOR_MISSING.
std::vector<bool> identical_tensors(const Checkpoint& before, const Checkpoint& after,
                                    const std::vector<TensorKey>& keys, ThreadPool& pool,
                                    const DeltaProgress& progress);

}  // namespace galvani
