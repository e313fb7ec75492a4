#include "weights/delta.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "core/status.h"
#include "device/weight_stats.h"
#include "io/json.h"
#include "ops/rounding.h"
#include "weights/source.h"

namespace galvani {
namespace {

constexpr int64_t kSmallSide = 512;  // up to here a Gram matrix costs next to nothing
constexpr int64_t kTopValues = 16;

// Rows × the rest, as a linear layer or a flattened convolution sees it.
MatrixSource as_matrix(const TensorView& view) {
  const int64_t rows = view.shape[0], columns = rows ? view.elements() / rows : 0;
  return {rows, columns, [&view, columns](int64_t row, int64_t n, int64_t column, int64_t m, float* out) {
            for (int64_t i = 0; i < n; ++i) widen(view, (row + i) * columns + column, m, out + i * m);
          }};
}
MatrixSource difference(const TensorView& before, const TensorView& after) {
  const int64_t rows = after.shape[0], columns = rows ? after.elements() / rows : 0;
  return {rows, columns, [&before, &after, columns](int64_t row, int64_t n, int64_t column, int64_t m, float* out) {
            std::vector<float> base(static_cast<size_t>(m));
            for (int64_t i = 0; i < n; ++i) {
              const int64_t begin = (row + i) * columns + column;
              widen(before, begin, m, base.data());
              widen(after, begin, m, out + i * m);
              for (int64_t j = 0; j < m; ++j) out[i * m + j] -= base[static_cast<size_t>(j)];
            }
          }};
}

Floor rounding_floor(const TensorView& before, const TensorView& after, const Spectrum& spectrum,
                     const DeltaOptions& options, ThreadPool& pool, const Poll& poll) {
  const RoundingNoise noise(before, after, pool);
  Floor floor;
  floor.frobenius_norm = std::sqrt(noise.square());
  const int64_t k = noise.draw(0).small_side();
  if (noise.square() > 0 && k > kSmallSide) {
    // σ1 of a draw of this size hardly varies: one is enough, and its edge and distribution take 20 passes instead of
    // a Gram matrix.
    const LanczosEstimate estimate = lanczos(noise.kept_draw(options.seed, pool), 20, options.seed, noise.square(), pool, poll);
    floor.draws = 1;
    floor.edge = estimate.largest;
    floor.values = estimate.curve(k);
    floor.measures = measure(estimate, k);
  } else if (noise.square() > 0) {
    floor.draws = 5;
    for (int draw = 0; draw < floor.draws; ++draw) {
      // Always the Gram path: the floor is read at its top, where both paths agree, and Gram is the faster.
      const Spectrum one = galvani::spectrum(noise.draw(options.seed + static_cast<uint64_t>(draw)),
                                             SpectrumMethod::kGram, 0, pool, poll);
      floor.edge = std::max(floor.edge, one.values[0]);
      if (draw == 0) floor.values = one.values;
    }
    floor.measures = measure(floor.values, options.top);
  } else {
    floor.values.assign(static_cast<size_t>(k), 0.0);
  }
  // The noise in the update is another draw: its σ1 may lie above the simulated one by its fluctuation, k^(−2/3) of
  // itself (Tracy & Widom). Without the margin one matrix in six of pure rounding showed a direction of "signal".
  floor.edge *= 1 + std::pow(static_cast<double>(k), -2.0 / 3);
  const auto above =
      std::find_if(spectrum.values.begin(), spectrum.values.end(), [&](double value) { return value <= floor.edge; });
  const std::vector<double> signal(spectrum.values.begin(), above);
  floor.rank_above = static_cast<int64_t>(signal.size());
  floor.above = measure(signal, options.top);
  return floor;
}

// The versions of one tensor on a device, while its numbers are taken there; empty where they are taken on the CPU.
class OnDevice {
 public:
  OnDevice(const gpu::Backend* device, const std::vector<const TensorView*>& views) {
    const bool readable = std::all_of(views.begin(), views.end(), [](auto* view) { return can_compare(view->dtype); });
    if (!device || !readable) return;
    device_ = device;
    for (const TensorView* view : views) versions_.emplace_back(*device, *view);
  }
  explicit operator bool() const { return device_ != nullptr; }

  DeltaSums sums(bool mass) const {
    std::vector<DeviceTensor> tensors;
    for (const Resident& version : versions_) tensors.push_back(version.tensor());
    return delta_sums(*device_, tensors, mass);
  }
  // Of version `after` minus version `before`, or of `after` itself (before < 0): gives the source a Gram matrix from
  // here, and its eigenvalues where a library is asked for. The versions must outlive it.
  MatrixSource with_gram(MatrixSource source, int before, size_t after) const {
    if (!device_) return source;
    const DeviceTensor* from = before < 0 ? nullptr : &versions_[static_cast<size_t>(before)].tensor();
    const DeviceTensor& to = versions_[after].tensor();
    source.gram_there = [this, from, &to] { return gram(*device_, from, to); };
    if (*eigensolver(*device_).name)
      source.eigen_there = [this, from, &to](int64_t leading) { return gram_eigen(*device_, from, to, leading); };
    return source;
  }

 private:
  const gpu::Backend* device_ = nullptr;
  std::vector<Resident> versions_;
};

// The leading subspaces of one matrix, kept for comparison.
struct Subspace {
  int64_t size = 0, rows = 0, columns = 0;
  std::vector<double> left, right;
};
Subspace subspace_of(Spectrum& spectrum, const MatrixSource& matrix) {
  return {spectrum.leading, matrix.rows, matrix.columns, std::move(spectrum.left), std::move(spectrum.right)};
}
void compare_subspaces(const Subspace& a, const Subspace& b, std::vector<double>& left, std::vector<double>& right,
                       ThreadPool& pool) {
  left = principal_cosines(a.left, a.size, b.left, b.size, a.rows, pool);
  right = principal_cosines(a.right, a.size, b.right, b.size, a.columns, pool);
}

void add_spectra(TensorDelta& delta, const std::vector<const TensorView*>& views, const OnDevice& there,
                 const DeltaOptions& options, ThreadPool& pool, const Poll& poll) {
  std::vector<Subspace> steps;
  for (size_t step = 0; step + 1 < views.size(); ++step) {
    const MatrixSource matrix =
        there.with_gram(difference(*views[step], *views[step + 1]), static_cast<int>(step), step + 1);
    StepSpectrum out;
    const bool is_top = options.method == SpectrumMethod::kTop;
    const int64_t wanted = is_top && options.subspace == 0 ? kTopValues : options.subspace;
    out.spectrum = spectrum(matrix, options.method, wanted, pool, poll);
    out.measures = is_top ? measure_leading(out.spectrum.values, delta.sums.steps[step].square, options.top)
                          : measure(out.spectrum.values, options.top);
    if (options.floor) out.floor = rounding_floor(*views[step], *views[step + 1], out.spectrum, options, pool, poll);
    if (options.subspace > 0) {
      steps.push_back(subspace_of(out.spectrum, matrix));
      const MatrixSource weight = there.with_gram(as_matrix(*views[step]), -1, step);
      // Of the weight only the leading subspace is wanted: large ones are not worth a Gram matrix.
      const SpectrumMethod method =
          weight.small_side() > kSmallSide ? SpectrumMethod::kTop : is_top ? SpectrumMethod::kAuto : options.method;
      Spectrum of_weight = spectrum(weight, method, options.subspace, pool, poll);
      compare_subspaces(steps.back(), subspace_of(of_weight, weight), out.weight_left, out.weight_right, pool);
    }
    delta.spectra[step] = std::move(out);
  }
  if (steps.size() == 2) compare_subspaces(steps[0], steps[1], delta.pair_left, delta.pair_right, pool);
}

// One tensor in every checkpoint. The one pass reads it by offset and not through the mapping: as fast, and a disk that
// fails or a file that shrinks is an error that names the file, where a mapping would end the process.
struct Versions {
  Versions(const std::vector<std::shared_ptr<Checkpoint>>& checkpoints, const std::vector<std::string>& names,
           Readers& readers) {
    for (size_t c = 0; c < checkpoints.size(); ++c) {
      const auto& stored = sources.emplace_back(*checkpoints[c], names[c], readers).stored();
      views.push_back({stored.dtype, stored.shape, nullptr});
    }
  }
  // Around each band: read ahead, count, stop.
  ReadHooks hooks(std::atomic<int64_t>& done, int64_t total, const DeltaProgress& progress, const Poll& poll) const {
    ReadHooks hooks;
    hooks.before = [this, &poll](int64_t begin, int64_t end) {
      if (poll) poll();
      // The band itself is being read by now; ask for what comes after it.
      for (const StoredSource& source : sources) source.will_need(end, end + 2 * (end - begin));
    };
    hooks.read = [this](size_t version, int64_t begin, int64_t count, std::byte* to) {
      const int64_t size = dtype_size(sources[version].stored().dtype);
      sources[version].read_bytes(begin * size, count * size, to);
    };
    hooks.after = [&done, &progress, total](int64_t begin, int64_t end) {
      const int64_t now = done.fetch_add(end - begin) + end - begin;
      if (progress) progress(std::min(now, total), total);
    };
    return hooks;
  }
  std::vector<StoredSource> sources;
  std::vector<TensorView> views;  // dtypes and shapes alone
};

// Equal dtype, shape and stored bytes.
bool identical(const StoredSource& a, const StoredSource& b) {
  if (a.stored().dtype != b.stored().dtype || a.stored().shape != b.stored().shape) return false;
  constexpr int64_t kPiece = 128 << 10;
  std::vector<std::byte> left(kPiece), right(kPiece);
  for (int64_t at = 0; at < a.stored().bytes; at += kPiece) {
    const int64_t bytes = std::min(kPiece, a.stored().bytes - at);
    a.read_bytes(at, bytes, left.data());
    b.read_bytes(at, bytes, right.data());
    if (std::memcmp(left.data(), right.data(), static_cast<size_t>(bytes)) != 0) return false;
  }
  return true;
}

}  // namespace

std::vector<TensorDelta> compare(const std::vector<std::shared_ptr<Checkpoint>>& checkpoints,
                                 const std::vector<TensorKey>& keys, const DeltaOptions& options, ThreadPool& pool,
                                 const DeltaProgress& progress, const Poll& poll) {
  GALVANI_CHECK(checkpoints.size() == 2 || checkpoints.size() == 3);
  // Everything is checked before anything is computed: a mismatch in the last tensor must not cost an hour.
  Readers readers;
  std::vector<Versions> tensors;
  int64_t total = 0;
  for (const TensorKey& key : keys) {
    GALVANI_CHECK(key.names.size() == checkpoints.size());
    const Versions& tensor = tensors.emplace_back(checkpoints, key.names, readers);
    for (size_t c = 0; c < checkpoints.size(); ++c) {
      const TensorView &view = tensor.views[c], &first = tensor.views[0];
      if (view.shape != first.shape)
        throw Error(Code::kShapeMismatch, "tensor " + quoted(key.name) + ": " + shape_text(first.shape) + " in " +
                                              checkpoints[0]->path() + ", " + shape_text(view.shape) + " in " +
                                              checkpoints[c]->path());
      if (!is_float(view.dtype))
        throw Error(Code::kUnsupported, "tensor " + quoted(key.name) + " in " + checkpoints[c]->path() +
                                            ": not a float tensor: " + dtype_name(view.dtype));
    }
    total += tensor.views[0].elements();
  }
  // In the order of the first checkpoint's files: they are read from front to back, whatever the names.
  std::vector<size_t> order(keys.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::vector<std::pair<size_t, int64_t>> places;
  for (const TensorKey& key : keys) places.push_back(checkpoints[0]->place_of(key.names[0]));
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return places[a] < places[b]; });

  std::vector<TensorDelta> out(keys.size());
  std::atomic<int64_t> done{0};
  for (const size_t i : order) {
    if (poll) poll();
    const auto& views = tensors[i].views;
    TensorDelta& delta = out[i];
    delta.name = keys[i].name;
    for (const TensorView& view : views) delta.dtypes.push_back(view.dtype);
    delta.shape = views[0].shape;
    delta.spectra.resize(views.size() - 1);
    // Spectra and a device read through the mapping.
    std::vector<const TensorView*> row;
    if (options.spectra || options.device)
      for (size_t c = 0; c < checkpoints.size(); ++c) row.push_back(&checkpoints[c]->at(keys[i].names[c]));
    const ReadHooks hooks = tensors[i].hooks(done, total, progress, poll);
    const OnDevice there(options.device, row);
    if (there) {
      delta.sums = there.sums(options.mass);
      hooks.after(0, views[0].elements());
    } else {
      std::vector<const TensorView*> stored;
      for (const TensorView& view : views) stored.push_back(&view);
      delta.sums = delta_sums(stored, pool, options.mass, hooks);
    }
    if (options.spectra && delta.shape.size() >= 2 && delta.sums.non_finite == 0 && views[0].elements() > 0)
      add_spectra(delta, row, there, options, pool, poll);
    for (size_t c = 0; c < row.size(); ++c) checkpoints[c]->done_with(keys[i].names[c]);
    if (progress) progress(done.load(), total);
  }
  return out;
}

std::vector<bool> identical_tensors(const Checkpoint& before, const Checkpoint& after,
                                    const std::vector<TensorKey>& keys, ThreadPool& pool,
                                    const DeltaProgress& progress) {
  std::vector<char> equal(keys.size());  // not vector<bool>: threads write neighbours
  Readers readers;
  std::vector<std::pair<StoredSource, StoredSource>> pairs;
  for (const TensorKey& key : keys) {
    GALVANI_CHECK(key.names.size() == 2);
    pairs.emplace_back(StoredSource(before, key.names[0], readers), StoredSource(after, key.names[1], readers));
  }
  std::atomic<int64_t> done{0};
  pool.run(static_cast<int64_t>(keys.size()), [&](int64_t i) {
    const auto& [left, right] = pairs[static_cast<size_t>(i)];
    equal[static_cast<size_t>(i)] = identical(left, right);
    if (progress) progress(done.fetch_add(1) + 1, static_cast<int64_t>(keys.size()));
  });
  return {equal.begin(), equal.end()};
}

}  // namespace galvani
