#include "ops/combine.h"

#include <algorithm>
#include <cmath>

#include "core/simd.h"
#include "core/status.h"
#include "ops/combine_kernels.h"
#include "ops/combine_passes.h"

namespace galvani {
namespace {

constexpr int64_t kTile = 8192;      // elements of each input in cache at a time
constexpr int64_t kChunk = 131'072;  // elements one task works on

const CombineMethod* find_method(const std::string& name) {
  for (const auto& table : {linear_methods(), spherical_methods(), task_methods(), other_methods()})
    for (const CombineMethod& method : table)
      if (name == method.name) return &method;
  return nullptr;
}

}  // namespace

const CombineKernels& combine_kernels() {
#if defined(__x86_64__)
  if (cpu_isa() == Isa::kAvx512) return kCombineAvx512;
  if (cpu_isa() == Isa::kAvx2) return kCombineAvx2;
#endif
  return kCombinePortable;
}

void bad_merge(const CombineJob& job, const std::string& what) {
  throw Error(Code::kBadArgument, job.method + ": tensor " + job.name + ": " + what);
}

double lane_sum(const double* lanes) {
  double sum = 0;
  for (int lane = 0; lane < kSumLanes; ++lane) sum += lanes[lane];
  return sum;
}

std::vector<double> with_base(std::vector<double> factors) {
  double rest = 1;
  for (const double factor : factors) rest -= factor;
  factors.push_back(rest);
  return factors;
}

int64_t last_dimension(const CombineJob& job) { return job.shape.empty() ? 1 : std::max<int64_t>(1, job.shape.back()); }
int64_t flat_row(const CombineJob& job) {
  const int64_t rows = job.shape.size() < 2 ? 1 : job.shape[0];
  return rows > 0 ? std::max<int64_t>(1, job.elements() / rows) : 1;
}

Passes::Passes(const CombineJob& job, ThreadPool& pool, const Emit& emit, const std::function<void()>& poll,
               int64_t unit)
    : job_(job), pool_(pool), emit_(emit), poll_(poll), elements_(job.elements()), unit_(unit) {
  tile_ = std::max<int64_t>(1, kTile / unit) * unit;
  chunk_ = std::max<int64_t>(1, kChunk / tile_) * tile_;
  chunks_ = (elements_ + chunk_ - 1) / chunk_;
  for (size_t i = 0; i < job.inputs.size(); ++i)
    if (static_cast<int>(i) != job.base) rest_.push_back(i);
}

double Passes::shared(const char* name) const {
  const auto found = job_.shared.find(name);
  if (found == job_.shared.end()) bad_merge(job_, std::string("parameter ") + name + " is missing");
  return found->second;
}

std::vector<double> Passes::each(const char* name) const {
  const auto found = job_.each.find(name);
  if (found == job_.each.end() || found->second.size() != job_.inputs.size())
    bad_merge(job_, std::string("parameter ") + name + ": expected one value per input");
  std::vector<double> out;
  for (const size_t i : rest_) out.push_back(found->second[i]);
  return out;
}

void Passes::run_chunk(int64_t chunk, const std::function<void(const Tile&)>& body) const {
  if (poll_) poll_();
  const size_t inputs = job_.inputs.size();
  std::vector<float> buffer(inputs * static_cast<size_t>(tile_));
  std::vector<float*> all, rest;
  for (size_t i = 0; i < inputs; ++i) all.push_back(buffer.data() + i * static_cast<size_t>(tile_));
  for (const size_t i : rest_) rest.push_back(all[i]);
  const int64_t end = std::min(elements_, (chunk + 1) * chunk_);
  for (int64_t at = chunk * chunk_; at < end; at += tile_) {
    Tile tile{chunk, at,  std::min(tile_, end - at), job_.base < 0 ? nullptr : all[static_cast<size_t>(job_.base)],
              all,   rest};
    for (size_t i = 0; i < inputs; ++i) job_.inputs[i]->read(at, tile.count, all[i]);
    body(tile);
  }
}

void Passes::visit(const std::function<void(const Tile&)>& body) const {
  pool_.run(chunks_, [&](int64_t chunk) { run_chunk(chunk, body); });
}

std::vector<double> Passes::sums(size_t width, const std::function<void(const Tile&, double* sums)>& body) const {
  std::vector<double> total(width, 0.0);
  // Batches bound what the partial sums take; within and across them the order of addition is that of the chunks.
  const int64_t batch =
      std::max<int64_t>(pool_.threads(), std::min<int64_t>(1024, (int64_t{1} << 21) / static_cast<int64_t>(width + 1)));
  std::vector<double> parts;
  for (int64_t from = 0; from < chunks_; from += batch) {
    const int64_t count = std::min(batch, chunks_ - from);
    parts.assign(width * static_cast<size_t>(count), 0.0);
    pool_.run(count, [&](int64_t i) {
      double* part = parts.data() + static_cast<size_t>(i) * width;
      run_chunk(from + i, [&](const Tile& tile) { body(tile, part); });
    });
    for (int64_t i = 0; i < count; ++i)
      for (size_t k = 0; k < width; ++k) total[k] += parts[static_cast<size_t>(i) * width + k];
  }
  return total;
}

void Passes::write(const std::function<void(const Tile&, float* out)>& body) const {
  pool_.run(chunks_, [&](int64_t chunk) {
    const int64_t begin = chunk * chunk_, count = std::min(chunk_, elements_ - begin);
    std::vector<float> out(static_cast<size_t>(count));
    run_chunk(chunk, [&](const Tile& tile) { body(tile, out.data() + (tile.begin - begin)); });
    emit_(begin, count, out.data());
  });
}

std::vector<double> Passes::gram() const {
  const size_t m = count();
  const CombineKernels& kernels = combine_kernels();
  const std::vector<double> lanes = sums(m * m * kSumLanes, [&](const Tile& tile, double* sums) {
    for (size_t i = 0; i < m; ++i)
      for (size_t j = i; j < m; ++j) {
        double* lanes = sums + (i * m + j) * kSumLanes;
        if (differences_)
          kernels.dot_differences(tile.rest[i], tile.rest[j], tile.base, tile.count, lanes);
        else
          kernels.dot(tile.rest[i], tile.rest[j], tile.count, lanes);
      }
  });
  std::vector<double> g(m * m);
  for (size_t i = 0; i < m; ++i)
    for (size_t j = i; j < m; ++j) g[i * m + j] = g[j * m + i] = lane_sum(lanes.data() + (i * m + j) * kSumLanes);
  return g;
}

void Passes::write_sum(const std::vector<double>& factors) const {
  GALVANI_CHECK(factors.size() == count());
  const std::vector<double> own = differences_ ? with_base(factors) : factors;
  const CombineKernels& kernels = combine_kernels();
  write([&](const Tile& tile, float* out) {
    std::vector<const float*> in(tile.rest.begin(), tile.rest.end());
    if (differences_) in.push_back(tile.base);
    kernels.weighted_sum(in.data(), own.data(), static_cast<int>(own.size()), tile.count, out);
  });
}

void combine(const CombineJob& job, ThreadPool& pool, const Emit& emit, const std::function<void()>& poll) {
  const CombineMethod* method = find_method(job.method);
  if (!method) throw Error(Code::kBadArgument, "merge: unknown method '" + job.method + "'");
  if (job.inputs.empty() || job.base >= static_cast<int>(job.inputs.size())) bad_merge(job, "no inputs");
  if (job.elements() == 0) return;
  Passes passes(job, pool, emit, poll, method->unit ? method->unit(job) : 1);
  method->function(passes);
}

std::vector<std::string> combine_methods() {
  std::vector<std::string> out;
  for (const auto& table : {linear_methods(), spherical_methods(), task_methods(), other_methods()})
    for (const CombineMethod& method : table) out.push_back(method.name);
  return out;
}

}  // namespace galvani
