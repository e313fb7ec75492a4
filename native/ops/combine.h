// Merging one tensor of several checkpoints: every method a function of the inputs' values (lib/merge/methods.ts names
// paper and parameters of each).
//
//   inputs   m tensors of one shape, as float32, behind FloatSource (a mapped file, a file with an adapter added, …)
//   output   float32 values handed to `emit`, every element once, from several threads
//
// Nothing of a tensor's size is held: a method is one or more passes over tiles of all inputs, and what passes carry
// over are sums, thresholds or per-row numbers. Arithmetic: float64, rounded to float32 once, at the end; only ranks by
// |W_i − base| take the difference as float32, as mergekit's do (combine_kernels.h). Equal input gives equal bits whatever the threads and instruction set. Random masks depend on
// seed, input and element only.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/parallel.h"

namespace galvani {

// Elements of one tensor as float32, wherever they come from. read() is called from several threads.
class FloatSource {
 public:
  virtual ~FloatSource() = default;
  virtual void read(int64_t begin, int64_t count, float* out) const = 0;
};

struct CombineJob {
  std::string method, name;  // name: for messages
  std::vector<int64_t> shape;
  std::vector<const FloatSource*> inputs;
  int base = -1;                                    // index into inputs; −1 none
  std::map<std::string, double> shared;             // parameters of the tensor; flags are 0 or 1
  std::map<std::string, std::vector<double>> each;  // one value per input
  uint64_t seed = 0;                                // of this tensor's random numbers

  int64_t elements() const {
    int64_t n = 1;
    for (const int64_t d : shape) n *= d;
    return n;
  }
};

using Emit = std::function<void(int64_t begin, int64_t count, const float* values)>;

// BAD_ARGUMENT: unknown method, a parameter missing or out of range, wrong number of inputs.
void combine(const CombineJob& job, ThreadPool& pool, const Emit& emit, const std::function<void()>& poll = {});

std::vector<std::string> combine_methods();

}  // namespace galvani
