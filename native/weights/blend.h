// W = (1 − α) · A + α · B of chosen tensors, held in memory as a checkpoint of its own: what a model between two
// checkpoints is made of. Values are those of method `linear` (ops/combine.h) in the stored dtype, rounded once, so
// the bytes are the ones that a merge written to disk would have.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/parallel.h"
#include "io/safetensors.h"
#include "weights/merge.h"

namespace galvani {

struct BlendTensor {
  std::string name;  // in the blend
  std::shared_ptr<const Checkpoint> a, b;
  std::string a_name, b_name;
};

struct Blend {
  std::shared_ptr<Checkpoint> checkpoint;
  // Tensors whose dtype, shape and bytes are equal in A and B, and so in every blend of them: not held.
  std::vector<std::string> equal;
};

// `what` names the blend in messages. Where A and B differ in dtype the wider holds both: F32 of F32, F16 and BF16.
// TENSOR_MISSING, SHAPE_MISMATCH and UNSUPPORTED (other dtypes) name both checkpoints; BAD_ARGUMENT: alpha not finite;
// OUT_OF_MEMORY. progress counts output bytes.
Blend blend(const std::string& what, const std::vector<BlendTensor>& tensors, double alpha, ThreadPool& pool,
            const MergeProgress& progress, const std::function<void()>& poll);

}  // namespace galvani
