#include "ops/krylov.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/status.h"
#include "ops/dense_kernels.h"
#include "ops/eigen.h"

namespace galvani {
namespace {

constexpr int64_t kTasks = 16;  // partial sums per pass: fixed, so that their order is

// Small, fixed and good enough for starting vectors: uniform in (−½, ½), PCG's multiplier.
void fill_random(double* x, int64_t n, uint64_t seed) {
  uint64_t state = seed * 0x9e3779b97f4a7c15ull + 0xda3e39cb94b95bdbull;
  for (int64_t i = 0; i < n; ++i) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    x[i] = static_cast<double>(state >> 11) * 0x1p-53 - 0.5;
  }
}

// The block of the long side [begin, begin + count) as float32; (k, count) when rows ≤ columns, else (count, k).
void read_strip(const MatrixSource& a, int64_t begin, int64_t count, float* out) {
  if (a.rows <= a.columns)
    a.block(0, a.rows, begin, count, out);
  else
    a.block(begin, count, 0, a.columns, out);
}

// body(task, begin, count) for all strips of the long side, each task's in order.
template <typename Body>
void for_strips(const MatrixSource& a, int64_t strip, ThreadPool& pool, const Poll& poll, const Body& body) {
  const int64_t length = a.long_side(), strips = (length + strip - 1) / strip, tasks = std::min(kTasks, strips);
  pool.run(tasks, [&](int64_t task) {
    for (int64_t index = task; index < strips; index += tasks) {
      if (poll) poll();
      body(task, index * strip, std::min(strip, length - index * strip));
    }
  });
}

// G x for one vector, G = A Aᵀ on the small side: out (k).
void apply(const MatrixSource& a, const double* x, double* out, ThreadPool& pool, const Poll& poll) {
  const DenseKernels& kernels = dense_kernels();
  const int64_t k = a.small_side(), strip = std::clamp<int64_t>((1 << 18) / std::max<int64_t>(k, 1), 16, 512);
  std::vector<double> partial(static_cast<size_t>(kTasks * k), 0.0);
  for_strips(a, strip, pool, poll, [&](int64_t task, int64_t begin, int64_t count) {
    std::vector<float> block(static_cast<size_t>(count * k));
    read_strip(a, begin, count, block.data());
    double* sum = partial.data() + task * k;
    if (a.rows <= a.columns) {
      std::vector<double> products(static_cast<size_t>(count), 0.0);  // Aᵀ x of the strip
      for (int64_t i = 0; i < k; ++i) kernels.axpy_float(x[i], block.data() + i * count, products.data(), count);
      for (int64_t i = 0; i < k; ++i) sum[i] += kernels.dot_float(block.data() + i * count, products.data(), count);
    } else {
      for (int64_t p = 0; p < count; ++p) {
        const float* row = block.data() + p * k;
        kernels.axpy_float(kernels.dot_float(row, x, k), row, sum, k);
      }
    }
  });
  std::fill(out, out + k, 0.0);
  for (int64_t task = 0; task < kTasks; ++task) kernels.axpy(1.0, partial.data() + task * k, out, k);
}

// For a panel X (k, width), width a multiple of 8: the products of every strip with it, tall = (Aᵀ X) as (count, width)
// per strip, handed to `each`; and G X (k, width) when `image` is given. Strips are widened both ways round, so that
// both multiplications run along rows.
template <typename Each>
void apply_panel(const MatrixSource& a, const std::vector<double>& x, int64_t width, std::vector<double>* image,
                 ThreadPool& pool, const Poll& poll, const Each& each) {
  const DenseKernels& kernels = dense_kernels();
  const int64_t k = a.small_side(), strip = std::clamp<int64_t>((1 << 17) / std::max<int64_t>(k, 1), 16, 128);
  std::vector<double> partial(image ? static_cast<size_t>(kTasks * k * width) : 0, 0.0);
  for_strips(a, strip, pool, poll, [&](int64_t task, int64_t begin, int64_t count) {
    std::vector<float> block(static_cast<size_t>(count * k));
    read_strip(a, begin, count, block.data());
    const bool wide = a.rows <= a.columns;
    std::vector<double> along(block.begin(), block.end()), across(block.size());
    const int64_t down = wide ? k : count, right = wide ? count : k;
    for (int64_t i = 0; i < down; ++i)
      for (int64_t j = 0; j < right; ++j) across[static_cast<size_t>(j * down + i)] = along[static_cast<size_t>(i * right + j)];
    const std::vector<double>& by_long = wide ? across : along;   // (count, k)
    const std::vector<double>& by_small = wide ? along : across;  // (k, count)
    std::vector<double> products(static_cast<size_t>(count * width), 0.0);
    for (int64_t p = 0; p < count; p += 4)
      kernels.update(by_long.data() + p * k, x.data(), width, k, products.data() + p * width, width,
                     std::min<int64_t>(4, count - p), width);
    if (image)
      for (int64_t i = 0; i < k; i += 4)
        kernels.update(by_small.data() + i * count, products.data(), width, count,
                       partial.data() + (task * k + i) * width, width, std::min<int64_t>(4, k - i), width);
    each(begin, count, products.data());
  });
  if (!image) return;
  image->assign(static_cast<size_t>(k * width), 0.0);
  for (int64_t task = 0; task < kTasks; ++task)
    kernels.axpy(1.0, partial.data() + task * k * width, image->data(), k * width);
}

// Makes x (n) orthogonal to the rows of `basis` and of length 1; false when next to nothing is left of it.
bool orthonormalise(double* x, int64_t n, const std::vector<double>& basis, int64_t count) {
  const DenseKernels& kernels = dense_kernels();
  const double before = std::sqrt(kernels.dot(x, x, n));
  if (!(before > 0)) return false;
  for (int pass = 0; pass < 2; ++pass)
    for (int64_t other = 0; other < count; ++other)
      kernels.axpy(-kernels.dot(x, basis.data() + other * n, n), basis.data() + other * n, x, n);
  const double after = std::sqrt(kernels.dot(x, x, n));
  if (!(after > 1e-10 * before)) return false;
  for (int64_t i = 0; i < n; ++i) x[i] /= after;
  return true;
}

int64_t padded_width(int64_t count) { return (count + 7) / 8 * 8; }

// Vectors [from, from + count) of (…, k) as columns of a panel (k, width).
std::vector<double> panel_of(const std::vector<double>& vectors, int64_t from, int64_t count, int64_t k) {
  const int64_t width = padded_width(count);
  std::vector<double> panel(static_cast<size_t>(k * width), 0.0);
  for (int64_t j = 0; j < count; ++j)
    for (int64_t i = 0; i < k; ++i)
      panel[static_cast<size_t>(i * width + j)] = vectors[static_cast<size_t>((from + j) * k + i)];
  return panel;
}

}  // namespace

std::vector<double> LanczosEstimate::curve(int64_t k) const {
  std::vector<double> out(static_cast<size_t>(k), 0.0);
  if (nodes.empty()) return out;
  // A node stands for the values around the middle of its share; straight lines between, σ1 at the top.
  std::vector<double> places{0.0}, values{nodes[0]};
  double before = 0;
  for (size_t i = 0; i < nodes.size(); ++i) {
    places.push_back(before + shares[i] / 2);
    values.push_back(nodes[i]);
    before += shares[i];
  }
  places.push_back(1.0);
  values.push_back(nodes.back());
  size_t at = 0;
  for (int64_t i = 0; i < k; ++i) {
    const double place = (static_cast<double>(i) + 0.5) / static_cast<double>(k);
    while (at + 2 < places.size() && places[at + 1] < place) ++at;
    const double span = places[at + 1] - places[at], share = span > 0 ? (place - places[at]) / span : 0;
    out[static_cast<size_t>(i)] = values[at] + std::clamp(share, 0.0, 1.0) * (values[at + 1] - values[at]);
  }
  // As of an exact spectrum (spectrum.h): eigenvalues of G that small are rounding.
  const double resolution = std::sqrt(static_cast<double>(k) * std::numeric_limits<double>::epsilon()) * largest;
  for (double& value : out)
    if (value < resolution) value = 0;
  return out;
}

LanczosEstimate lanczos(const MatrixSource& a, int steps, uint64_t seed, double square, ThreadPool& pool,
                        const Poll& poll) {
  LanczosEstimate out;
  const int64_t k = a.small_side();
  if (k == 0) return out;
  const int64_t most = std::min<int64_t>(steps, k);
  const DenseKernels& kernels = dense_kernels();
  std::vector<double> basis(static_cast<size_t>(most * k)), diagonal, off, image(static_cast<size_t>(k));
  fill_random(basis.data(), k, seed);
  orthonormalise(basis.data(), k, basis, 0);
  double residual = 0;
  for (int64_t step = 0; step < most; ++step) {
    const double* q = basis.data() + step * k;
    apply(a, q, image.data(), pool, poll);
    diagonal.push_back(kernels.dot(q, image.data(), k));
    // Orthogonal to all that went before, not only the last two: rounding would bring old directions back.
    for (int pass = 0; pass < 2; ++pass)
      for (int64_t other = 0; other <= step; ++other)
        kernels.axpy(-kernels.dot(image.data(), basis.data() + other * k, k), basis.data() + other * k, image.data(), k);
    residual = std::sqrt(kernels.dot(image.data(), image.data(), k));
    if (step + 1 == most || !(residual > 1e-12 * std::fabs(diagonal[0]))) break;
    off.push_back(residual);
    for (int64_t i = 0; i < k; ++i) basis[static_cast<size_t>((step + 1) * k + i)] = image[static_cast<size_t>(i)] / residual;
  }
  const auto n = static_cast<int64_t>(diagonal.size());
  std::vector<double> t(static_cast<size_t>(n * n), 0.0);
  for (int64_t i = 0; i < n; ++i) {
    t[static_cast<size_t>(i * n + i)] = diagonal[static_cast<size_t>(i)];
    if (i + 1 < n) t[static_cast<size_t>(i * n + i + 1)] = off[static_cast<size_t>(i)];
  }
  const SymmetricEigen ritz = symmetric_eigen(t, n, n, pool, poll);
  const double last = std::fabs(ritz.vectors[static_cast<size_t>(n - 1)]);  // of the largest Ritz vector
  out.largest = std::sqrt(std::max(0.0, ritz.values[0] + residual * last));
  double energy = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double first = ritz.vectors[static_cast<size_t>(i * n)], value = std::max(0.0, ritz.values[static_cast<size_t>(i)]);
    out.nodes.push_back(std::sqrt(value));
    out.shares.push_back(first * first);
    energy += static_cast<double>(k) * first * first * value;
  }
  if (square > 0 && energy > 0) {
    // One random direction weighs the values unevenly by chance; ‖A‖_F² is exact.
    const double scale = std::sqrt(square / energy);
    for (double& node : out.nodes) node = std::min(node * scale, out.largest);
  }
  return out;
}

Leading leading(const MatrixSource& a, int64_t rank, const LeadingOptions& options, ThreadPool& pool, const Poll& poll) {
  Leading out;
  const int64_t k = a.small_side();
  rank = std::min(rank, k);
  if (rank <= 0) return out;
  const DenseKernels& kernels = dense_kernels();
  const int64_t block = std::min(k, padded_width(rank + 8));
  std::vector<double> basis, images;  // (count, k) each; images = G basis
  int64_t count = 0;
  auto add = [&](const double* candidate) {
    basis.resize(static_cast<size_t>((count + 1) * k));
    std::copy_n(candidate, k, basis.end() - k);
    if (count < k && orthonormalise(basis.data() + count * k, k, basis, count)) ++count;
    basis.resize(static_cast<size_t>(count * k));
  };
  std::vector<double> candidate(static_cast<size_t>(k));
  for (int64_t j = 0; j < block; ++j) {
    fill_random(candidate.data(), k, options.seed * 1000 + static_cast<uint64_t>(j));
    add(candidate.data());
  }
  std::vector<double> small;  // Ritz vectors (rank, k)
  for (int64_t pass = 0, from = 0; pass < options.passes && from < count; ++pass) {
    const int64_t width = padded_width(count - from), fresh = count - from;
    std::vector<double> image;
    apply_panel(a, panel_of(basis, from, fresh, k), width, &image, pool, poll, [](int64_t, int64_t, const double*) {});
    images.resize(static_cast<size_t>(count * k));
    for (int64_t j = 0; j < fresh; ++j)
      for (int64_t i = 0; i < k; ++i)
        images[static_cast<size_t>((from + j) * k + i)] = image[static_cast<size_t>(i * width + j)];
    std::vector<double> projected(static_cast<size_t>(count * count), 0.0);
    pool.run(count, [&](int64_t i) {
      for (int64_t j = i; j < count; ++j)
        projected[static_cast<size_t>(i * count + j)] = kernels.dot(basis.data() + i * k, images.data() + j * k, k);
    });
    const int64_t wanted = std::min(rank, count);
    const SymmetricEigen ritz = symmetric_eigen(projected, count, wanted, pool, poll);
    small.assign(static_cast<size_t>(wanted * k), 0.0);
    out.values.assign(static_cast<size_t>(wanted), 0.0);
    out.bounds.assign(static_cast<size_t>(wanted), 0.0);
    std::vector<double> worst(static_cast<size_t>(wanted), 0.0);
    pool.run(wanted, [&](int64_t index) {
      double* y = small.data() + index * k;
      const double theta = std::max(0.0, ritz.values[static_cast<size_t>(index)]);
      std::vector<double> rest(static_cast<size_t>(k), 0.0);
      for (int64_t j = 0; j < count; ++j) {
        const double factor = ritz.vectors[static_cast<size_t>(index * count + j)];
        kernels.axpy(factor, basis.data() + j * k, y, k);
        kernels.axpy(factor, images.data() + j * k, rest.data(), k);
      }
      kernels.axpy(-theta, y, rest.data(), k);
      const double residual = std::sqrt(kernels.dot(rest.data(), rest.data(), k)), sigma = std::sqrt(theta);
      out.values[static_cast<size_t>(index)] = sigma;
      out.bounds[static_cast<size_t>(index)] = sigma > 0 ? residual / sigma : std::sqrt(residual);
      worst[static_cast<size_t>(index)] = theta > 0 ? residual / theta : 0;
    });
    // θ below 1e-12 θ1 drowns in the rounding of larger ones: it need not settle, and is not returned.
    bool settled = true;
    for (size_t i = 0; i < worst.size(); ++i)
      settled &= worst[i] < options.tolerance || out.values[i] < 1e-6 * out.values[0];
    if (settled) break;
    const int64_t end = count;
    for (int64_t j = from; j < end; ++j) add(images.data() + j * k);
    from = end;
  }
  while (out.count < static_cast<int64_t>(out.values.size()) && out.values[static_cast<size_t>(out.count)] > 0 &&
         out.values[static_cast<size_t>(out.count)] >= 1e-6 * out.values[0])
    ++out.count;
  out.values.resize(static_cast<size_t>(out.count));
  out.bounds.resize(static_cast<size_t>(out.count));
  small.resize(static_cast<size_t>(out.count * k));
  std::vector<double> other = long_side_vectors(a, small, out.values, out.count, pool, poll);
  out.left = a.rows <= a.columns ? std::move(small) : std::move(other);
  out.right = a.rows <= a.columns ? std::move(other) : std::move(small);
  return out;
}

std::vector<double> long_side_vectors(const MatrixSource& a, const std::vector<double>& vectors,
                                      const std::vector<double>& values, int64_t count, ThreadPool& pool,
                                      const Poll& poll) {
  if (count == 0) return {};
  const int64_t k = a.small_side(), length = a.long_side(), width = padded_width(count);
  std::vector<double> out(static_cast<size_t>(count * length));
  apply_panel(a, panel_of(vectors, 0, count, k), width, nullptr, pool, poll,
              [&](int64_t begin, int64_t size, const double* products) {
                for (int64_t j = 0; j < count; ++j)
                  for (int64_t p = 0; p < size; ++p)
                    out[static_cast<size_t>(j * length + begin + p)] =
                        products[p * width + j] / values[static_cast<size_t>(j)];
              });
  // Nearly orthonormal already; a Gram–Schmidt pass removes what the division by σ magnified.
  const DenseKernels& kernels = dense_kernels();
  for (int64_t index = 0; index < count; ++index) {
    double* x = out.data() + index * length;
    for (int64_t other = 0; other < index; ++other)
      kernels.axpy(-kernels.dot(x, out.data() + other * length, length), out.data() + other * length, x, length);
    const double norm = std::sqrt(kernels.dot(x, x, length));
    for (int64_t i = 0; i < length; ++i) x[i] /= norm;
  }
  return out;
}

}  // namespace galvani
