// Writes one safetensors file whose tensors are copies or merges of tensors of opened checkpoints, tile by tile.
// Memory does not grow with a tensor. lib/merge decides what goes where; nothing here knows what a name means.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "ops/combine.h"

namespace galvani {

struct MergeTable {  // a tensor of one checkpoint, perhaps with an adapter
  size_t checkpoint = 0;
  std::string name;
  struct Adapter {
    size_t checkpoint;
    std::string a, b;
    double scale;
    bool transposed;
  };
  std::optional<Adapter> adapter;
};

struct MergeInput {
  // One table; or several, whose rows `rows` gathers (source.h, RowMap).
  std::vector<MergeTable> tables;
  bool gathers = false;
  std::vector<int32_t> rows;
  std::vector<std::vector<int32_t>> blends;
  int64_t padding = 0;
};

struct MergeTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::string method;  // of combine.h, or "copy": the stored bytes of the one input, which has this dtype
  std::vector<MergeInput> inputs;
  int base = -1;
  std::map<std::string, double> shared;
  std::map<std::string, std::vector<double>> each;
};

// done and total count output bytes.
using MergeProgress = std::function<void(int64_t done, int64_t total)>;

// The file appears complete or not at all. TENSOR_MISSING, SHAPE_MISMATCH (an input that has not the output's number
// of elements), BAD_ARGUMENT (combine), BAD_FILE and IO of reading, IO of writing. Equal input, equal bytes.
void write_merged(const std::string& path, const std::map<std::string, std::string>& metadata,
                  const std::vector<std::shared_ptr<Checkpoint>>& checkpoints, const std::vector<MergeTensor>& tensors,
                  uint64_t seed, ThreadPool& pool, const MergeProgress& progress, const std::function<void()>& poll);

// float32 to a stored dtype, to nearest, ties to even; beyond the range of F8_E4M3 the largest value, as it has no
// infinity. UNSUPPORTED for integers.
void narrow(const float* from, int64_t count, DType dtype, void* to);

}  // namespace galvani
