// The frame of every merge method: passes over tiles of all inputs, in chunks that threads share out. Sums are taken
// per chunk and added in chunk order, so they do not depend on the threads.
#pragma once
#include <functional>
#include <span>
#include <vector>

#include "ops/combine.h"

namespace galvani {

// One tile of every input; the buffers are the body's to overwrite.
struct Tile {
  int64_t chunk = 0, begin = 0, count = 0;
  float* base = nullptr;         // nullptr when the job has none
  std::span<float* const> all;   // in the job's order, base included
  std::span<float* const> rest;  // without base
};

class Passes {
 public:
  // Tiles hold whole rows of `unit` elements.
  Passes(const CombineJob& job, ThreadPool& pool, const Emit& emit, const std::function<void()>& poll,
         int64_t unit = 1);

  const CombineJob& job() const { return job_; }
  int64_t elements() const { return elements_; }
  int64_t unit() const { return unit_; }
  int64_t chunks() const { return chunks_; }
  int64_t chunk_elements() const { return chunk_; }
  size_t count() const { return rest_.size(); }  // inputs without base

  // From here on gram() and write_sum() speak of W_i − base.
  void use_differences() { differences_ = true; }

  // A parameter of the tensor; the values of `each` of the inputs without base.
  double shared(const char* name) const;
  bool flag(const char* name) const { return shared(name) != 0; }
  std::vector<double> each(const char* name) const;

  void visit(const std::function<void(const Tile&)>& body) const;
  // Sums of `width` numbers; body adds a tile's share.
  std::vector<double> sums(size_t width, const std::function<void(const Tile&, double* sums)>& body) const;
  // body writes tile.count values.
  void write(const std::function<void(const Tile&, float* out)>& body) const;

  // (count, count) inner products of the inputs without base.
  std::vector<double> gram() const;
  // Emits Σ factor[i] · W_i, or base + Σ factor[i] · (W_i − base).
  void write_sum(const std::vector<double>& factors) const;

 private:
  void run_chunk(int64_t chunk, const std::function<void(const Tile&)>& body) const;

  const CombineJob& job_;
  ThreadPool& pool_;
  const Emit& emit_;
  const std::function<void()>& poll_;
  int64_t elements_, unit_, tile_, chunk_, chunks_;
  std::vector<size_t> rest_;
  bool differences_ = false;
};

// Sixteen lanes added in order.
double lane_sum(const double* lanes);
// The factors of rest and base that make base + Σ factor[i] · (W_i − base) one weighted sum: base gets 1 − Σ factor.
std::vector<double> with_base(std::vector<double> factors);
[[noreturn]] void bad_merge(const CombineJob& job, const std::string& what);

// The methods: name → function. One file each for what they share.
using CombineFunction = void (*)(Passes&);
struct CombineMethod {
  const char* name;
  CombineFunction function;
  int64_t (*unit)(const CombineJob&) = nullptr;  // elements that must lie in one tile; default 1
};
std::span<const CombineMethod> linear_methods();     // combine_linear.cc
std::span<const CombineMethod> spherical_methods();  // combine_spherical.cc
std::span<const CombineMethod> task_methods();       // combine_task.cc
std::span<const CombineMethod> other_methods();      // combine_other.cc

// shape's last dimension; 1 for scalars.
int64_t last_dimension(const CombineJob& job);
// elements / shape[0]: the row of a matrix or flattened convolution; a vector is one row.
int64_t flat_row(const CombineJob& job);

}  // namespace galvani
