#include "ops/eigen.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "core/status.h"
#include "ops/dense_kernels.h"

namespace galvani {
namespace {

constexpr int64_t kPanel = 32;
constexpr double kEpsilon = std::numeric_limits<double>::epsilon();

// Waking the pool costs some microseconds: small pieces of work stay on this thread. The bits are the same.
void run_pieces(ThreadPool& pool, int64_t count, int64_t work, const std::function<void(int64_t)>& body) {
  constexpr int64_t kWorthWaking = 100'000;  // multiply-adds
  if (work >= kWorthWaking) return pool.run(count, body);
  for (int64_t i = 0; i < count; ++i) body(i);
}

struct Reflector {
  double beta = 0;  // the entry that replaces x[0]
  double tau = 0;   // H = I − tau v vᵀ
};
// Turns x into the Householder vector v (v[0] = 1) with (I − tau v vᵀ) x = beta e1.
Reflector make_reflector(double* x, int64_t n, const DenseKernels& kernels) {
  const double tail = n > 1 ? kernels.dot(x + 1, x + 1, n - 1) : 0.0;
  Reflector out{x[0], 0.0};
  if (tail != 0.0) {
    out.beta = -std::copysign(std::sqrt(x[0] * x[0] + tail), x[0]);
    out.tau = (out.beta - x[0]) / out.beta;
    const double scale = 1.0 / (x[0] - out.beta);
    for (int64_t i = 1; i < n; ++i) x[i] *= scale;
  }
  x[0] = 1.0;
  return out;
}

// y[i] = Σ_l S_il v_l over rows and columns [from, k) of the symmetric matrix stored by its upper triangle.
// The rows are cut into a number of chunks that depends on the size alone; each has its own partial y.
void symmetric_times(const std::vector<double>& a, int64_t k, int64_t from, const double* v, double* y,
                     std::vector<double>& partial, ThreadPool& pool, const DenseKernels& kernels) {
  const int64_t n = k - from, chunks = n < 256 ? 1 : 16;
  partial.assign(static_cast<size_t>(chunks * k), 0.0);
  pool.run(chunks, [&](int64_t chunk) {
    double* out = partial.data() + chunk * k;
    // Rows dealt out in turns of 16: all chunks get the same area of the triangle.
    for (int64_t turn = from + chunk * 16; turn < k; turn += chunks * 16) {
      for (int64_t i = turn; i < std::min(k, turn + 16); ++i) {
        const double* row = a.data() + i * k;
        const double right = kernels.dot_axpy(row + i + 1, v + i + 1, v[i], out + i + 1, k - i - 1);
        out[i] += row[i] * v[i] + right;
      }
    }
  });
  std::fill(y + from, y + k, 0.0);
  for (int64_t chunk = 0; chunk < chunks; ++chunk) kernels.axpy(1.0, partial.data() + chunk * k + from, y + from, n);
}

struct Tridiagonal {
  std::vector<double> diagonal, off;  // (k), (k − 1)
  std::vector<double> tau;            // reflector j acts on [j + 1, k); its vector stays in row j of a
};

Tridiagonal tridiagonalise(std::vector<double>& a, int64_t k, ThreadPool& pool, const Poll& poll) {
  const DenseKernels& kernels = dense_kernels();
  Tridiagonal t;
  t.diagonal.assign(static_cast<size_t>(k), 0.0);
  t.off.assign(static_cast<size_t>(std::max<int64_t>(k - 1, 0)), 0.0);
  t.tau.assign(static_cast<size_t>(k), 0.0);
  // The panel's v and w side by side, 2·kPanel rows of k: A −= V Wᵀ + W Vᵀ reads them as one list of vectors.
  std::vector<double> panel(static_cast<size_t>(2 * kPanel * k)), partial;
  auto v_of = [&](int64_t p) { return panel.data() + 2 * p * k; };
  auto w_of = [&](int64_t p) { return panel.data() + (2 * p + 1) * k; };
  for (int64_t first = 0; first < k; first += kPanel) {
    if (poll) poll();
    const int64_t width = std::min(kPanel, k - first);
    std::fill(panel.begin(), panel.end(), 0.0);
    for (int64_t p = 0; p < width; ++p) {
      const int64_t j = first + p, n = k - j - 1;
      double* row = a.data() + j * k;
      for (int64_t q = 0; q < p; ++q) {  // bring row j up to date with this panel's reflectors
        kernels.axpy(-v_of(q)[j], w_of(q) + j, row + j, k - j);
        kernels.axpy(-w_of(q)[j], v_of(q) + j, row + j, k - j);
      }
      t.diagonal[static_cast<size_t>(j)] = row[j];
      if (n <= 0) continue;
      const Reflector reflector = make_reflector(row + j + 1, n, kernels);
      t.off[static_cast<size_t>(j)] = reflector.beta;
      t.tau[static_cast<size_t>(j)] = reflector.tau;
      double* v = v_of(p);
      double* w = w_of(p);
      if (reflector.tau == 0.0) continue;  // nothing to do: v and w stay zero
      std::copy(row + j + 1, row + k, v + j + 1);
      symmetric_times(a, k, j + 1, v, w, partial, pool, kernels);
      for (int64_t q = 0; q < p; ++q) {
        const double wv = kernels.dot(w_of(q) + j + 1, v + j + 1, n), vv = kernels.dot(v_of(q) + j + 1, v + j + 1, n);
        kernels.axpy(-wv, v_of(q) + j + 1, w + j + 1, n);
        kernels.axpy(-vv, w_of(q) + j + 1, w + j + 1, n);
      }
      for (int64_t i = j + 1; i < k; ++i) w[i] *= reflector.tau;
      const double half = 0.5 * reflector.tau * kernels.dot(w + j + 1, v + j + 1, n);
      kernels.axpy(-half, v + j + 1, w + j + 1, n);
    }
    // A −= V Wᵀ + W Vᵀ on what is left, in blocks of columns whose panel part stays in L2.
    const int64_t rest = first + width, strip = 64, block = 512;
    run_pieces(pool, (k - rest + strip - 1) / strip, (k - rest) * (k - rest) * width, [&](int64_t task) {
      const int64_t begin = rest + task * strip, end = std::min(k, begin + strip);
      double factors[4 * 2 * kPanel];
      for (int64_t column = begin; column < k; column += block) {
        for (int64_t i = begin; i < end; i += 4) {
          // All four rows from column i on: what this writes below the diagonal is never read.
          const int64_t rows = std::min<int64_t>(4, end - i), from = std::max(i, column),
                        to = std::min(k, column + block);
          if (from >= to) continue;
          for (int64_t row = 0; row < rows; ++row) {
            for (int64_t q = 0; q < width; ++q) {
              factors[row * 2 * width + 2 * q] = -w_of(q)[i + row];
              factors[row * 2 * width + 2 * q + 1] = -v_of(q)[i + row];
            }
          }
          kernels.update(factors, panel.data() + from, k, 2 * width, a.data() + i * k + from, k, rows, to - from);
        }
      }
    });
  }
  return t;
}

// Eigenvalues of a symmetric tridiagonal matrix, descending. The active block [lo, hi] shrinks from below.
std::vector<double> tridiagonal_values(std::vector<double> d, std::vector<double> e) {
  const int64_t k = static_cast<int64_t>(d.size());
  double scale = 0;
  for (const double x : d) scale = std::max(scale, std::fabs(x));
  for (const double x : e) scale = std::max(scale, std::fabs(x));
  if (scale == 0) return std::vector<double>(d.size(), 0.0);
  for (double& x : d) x /= scale;
  for (double& x : e) x /= scale;

  int64_t hi = k - 1, steps = 0;
  while (hi > 0) {
    // Beside its neighbours, or beside the whole matrix: where many eigenvalues are zero the neighbours are rounding
    // dust too, and beside them nothing is small. Setting ε‖T‖ to zero moves no eigenvalue by more than the stated error.
    auto small = [&](int64_t i) {
      return std::fabs(e[static_cast<size_t>(i)]) <=
             kEpsilon * std::max(1.0, std::fabs(d[static_cast<size_t>(i)]) + std::fabs(d[static_cast<size_t>(i + 1)]));
    };
    if (small(hi - 1)) {
      --hi;
      steps = 0;
      continue;
    }
    int64_t lo = hi - 1;
    while (lo > 0 && !small(lo - 1)) --lo;
    if (++steps > 60) throw Error(Code::kInternal, "tridiagonal QR did not converge");

    auto* D = d.data();
    auto* E = e.data();
    const double half = (D[hi - 1] - D[hi]) / 2, square = E[hi - 1] * E[hi - 1];
    const double root = std::sqrt(half * half + square);
    const double shift = root == 0 ? D[hi] : D[hi] - square / (half + std::copysign(root, half));
    double x = D[lo] - shift, z = E[lo];  // the rotation that starts the bulge, then chases it down
    for (int64_t i = lo; i < hi; ++i) {
      const double r = std::sqrt(x * x + z * z);
      const double c = r == 0 ? 1.0 : x / r, s = r == 0 ? 0.0 : z / r;
      if (i > lo) E[i - 1] = r;
      const double a = D[i], b = D[i + 1], o = E[i];
      D[i] = c * c * a + 2 * c * s * o + s * s * b;
      D[i + 1] = s * s * a - 2 * c * s * o + c * c * b;
      E[i] = c * s * (b - a) + (c * c - s * s) * o;
      if (i + 1 < hi) {
        x = E[i];
        z = s * E[i + 1];
        E[i + 1] *= c;
      }
    }
  }
  for (double& x : d) x *= scale;
  std::sort(d.begin(), d.end(), std::greater<>());
  return d;
}

// Solves (T − lambda I) x = b in place by elimination with partial pivoting; zero pivots become ε‖T‖.
void solve_shifted(const std::vector<double>& d, const std::vector<double>& e, double lambda, double tiny, double* x) {
  const int64_t k = static_cast<int64_t>(d.size());
  std::vector<double> p(d.size()), q(d.size(), 0.0), r(d.size(), 0.0);  // the three diagonals of U
  double pivot = d[0] - lambda, next = k > 1 ? e[0] : 0.0;
  for (int64_t i = 0; i + 1 < k; ++i) {
    const auto at = static_cast<size_t>(i);
    const double below = e[at], diagonal = d[at + 1] - lambda, right = i + 2 < k ? e[at + 1] : 0.0;
    if (std::fabs(below) > std::fabs(pivot)) {  // swap rows i and i + 1
      const double factor = pivot / below;
      p[at] = below;
      q[at] = diagonal;
      r[at] = right;
      std::swap(x[i], x[i + 1]);
      x[i + 1] -= factor * x[i];
      pivot = next - factor * diagonal;
      next = -factor * right;
    } else {
      if (std::fabs(pivot) < tiny) pivot = tiny;
      const double factor = below / pivot;
      p[at] = pivot;
      q[at] = next;
      x[i + 1] -= factor * x[i];
      pivot = diagonal - factor * next;
      next = right;
    }
  }
  p[static_cast<size_t>(k - 1)] = std::fabs(pivot) < tiny ? tiny : pivot;
  for (int64_t i = k - 1; i >= 0; --i) {
    const auto at = static_cast<size_t>(i);
    double sum = x[i];
    if (i + 1 < k) sum -= q[at] * x[i + 1];
    if (i + 2 < k) sum -= r[at] * x[i + 2];
    x[i] = sum / p[at];
  }
}

// Rows of `out`: eigenvectors of T for values[0 .. leading). Each is kept orthogonal to the ones before, so clusters
// give an orthonormal basis of their space.
void tridiagonal_vectors(const Tridiagonal& t, const std::vector<double>& values, int64_t leading,
                         std::vector<double>& out) {
  const auto k = static_cast<int64_t>(t.diagonal.size());
  double norm = std::max(std::fabs(values.front()), std::fabs(values.back()));
  if (norm == 0) norm = 1;
  uint64_t state = 0x9e3779b97f4a7c15ull;
  const DenseKernels& kernels = dense_kernels();
  for (int64_t index = 0; index < leading; ++index) {
    double* x = out.data() + index * k;
    for (int64_t i = 0; i < k; ++i) {
      state = state * 6364136223846793005ull + 1442695040888963407ull;
      x[i] = static_cast<double>(state >> 11) * 0x1p-53 - 0.5;
    }
    for (int round = 0; round < 4; ++round) {
      solve_shifted(t.diagonal, t.off, values[static_cast<size_t>(index)], kEpsilon * norm, x);
      double largest = 0;
      for (int64_t i = 0; i < k; ++i) largest = std::max(largest, std::fabs(x[i]));
      for (int64_t i = 0; i < k; ++i) x[i] /= largest;
      for (int pass = 0; pass < 2; ++pass)
        for (int64_t other = 0; other < index; ++other)
          kernels.axpy(-kernels.dot(x, out.data() + other * k, k), out.data() + other * k, x, k);
      const double length = std::sqrt(kernels.dot(x, x, k));
      for (int64_t i = 0; i < k; ++i) x[i] /= length;
    }
  }
}

}  // namespace

SymmetricEigen symmetric_eigen(std::vector<double>& a, int64_t k, int64_t leading, ThreadPool& pool, const Poll& poll) {
  SymmetricEigen out;
  if (k == 0) return out;
  leading = std::min(leading, k);
  // Scaled so that squares of entries neither overflow nor vanish.
  double scale = 0;
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = i; j < k; ++j) scale = std::max(scale, std::fabs(a[static_cast<size_t>(i * k + j)]));
  if (scale > 0) {
    scale = std::exp2(std::floor(std::log2(scale)));
    for (double& x : a) x /= scale;
  }
  const Tridiagonal t = tridiagonalise(a, k, pool, poll);
  out.values = tridiagonal_values(t.diagonal, t.off);
  if (leading > 0) {
    const DenseKernels& kernels = dense_kernels();
    out.vectors.assign(static_cast<size_t>(leading * k), 0.0);
    tridiagonal_vectors(t, out.values, leading, out.vectors);
    pool.run(leading, [&](int64_t index) {  // back through the reflectors, last first
      double* x = out.vectors.data() + index * k;
      for (int64_t j = k - 2; j >= 0; --j) {
        const double* v = a.data() + j * k + j + 1;
        const double tau = t.tau[static_cast<size_t>(j)];
        if (tau != 0.0) kernels.axpy(-tau * kernels.dot(v, x + j + 1, k - j - 1), v, x + j + 1, k - j - 1);
      }
    });
  }
  if (scale > 0)
    for (double& value : out.values) value *= scale;
  return out;
}

JacobiResult jacobi_svd(std::vector<double>& a, int64_t length, int64_t count, bool want_right, ThreadPool& pool) {
  GALVANI_CHECK(count <= length);
  const DenseKernels& kernels = dense_kernels();
  std::vector<double> work;
  int64_t rows = length;
  if (length > count) {  // Householder QR; R has the same singular values and right vectors
    rows = count;
    work.assign(static_cast<size_t>(count * count), 0.0);
    std::vector<double> v(static_cast<size_t>(length));
    for (int64_t j = 0; j < count; ++j) {
      const int64_t n = length - j;
      std::copy_n(a.data() + j * length + j, n, v.data());
      const Reflector reflector = make_reflector(v.data(), n, kernels);
      for (int64_t i = 0; i < j; ++i) work[static_cast<size_t>(j * count + i)] = a[static_cast<size_t>(j * length + i)];
      work[static_cast<size_t>(j * count + j)] = reflector.beta;
      if (reflector.tau == 0.0) continue;
      run_pieces(pool, count - j - 1, 2 * n * (count - j - 1), [&](int64_t task) {
        double* column = a.data() + (j + 1 + task) * length + j;
        kernels.axpy(-reflector.tau * kernels.dot(v.data(), column, n), v.data(), column, n);
      });
    }
  } else {
    work.swap(a);
  }
  std::vector<double> right;
  if (want_right) {
    right.assign(static_cast<size_t>(count * count), 0.0);
    for (int64_t i = 0; i < count; ++i) right[static_cast<size_t>(i * count + i)] = 1.0;
  }
  auto column = [&](int64_t i) { return work.data() + i * rows; };
  auto rotate = [](double* x, double* y, int64_t n, double c, double s) {
    for (int64_t i = 0; i < n; ++i) {
      const double a0 = x[i], b0 = y[i];
      x[i] = c * a0 - s * b0;
      y[i] = s * a0 + c * b0;
    }
  };
  double largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, kernels.dot(column(i), column(i), rows));
  const double negligible =
      largest * kEpsilon * kEpsilon;  // columns that are zero to working precision stay as they are
  bool again = largest > 0;
  for (int sweep = 0; again; ++sweep) {
    if (sweep == 60) throw Error(Code::kInternal, "one-sided Jacobi did not converge");
    again = false;
    for (int64_t i = 0; i + 1 < count; ++i) {
      for (int64_t j = i + 1; j < count; ++j) {
        const double alpha = kernels.dot(column(i), column(i), rows), beta = kernels.dot(column(j), column(j), rows);
        const double gamma = kernels.dot(column(i), column(j), rows);
        if (std::fabs(gamma) <= static_cast<double>(rows) * kEpsilon * std::sqrt(alpha) * std::sqrt(beta)) continue;
        if (alpha <= negligible || beta <= negligible) continue;
        again = true;
        const double zeta = (beta - alpha) / (2 * gamma);
        const double tangent = std::copysign(1.0, zeta) / (std::fabs(zeta) + std::sqrt(1 + zeta * zeta));
        const double c = 1 / std::sqrt(1 + tangent * tangent), s = c * tangent;
        rotate(column(i), column(j), rows, c, s);
        if (want_right) rotate(right.data() + i * count, right.data() + j * count, count, c, s);
      }
    }
  }
  std::vector<double> norms(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i)
    norms[static_cast<size_t>(i)] = std::sqrt(kernels.dot(column(i), column(i), rows));
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t x, int64_t y) { return norms[static_cast<size_t>(x)] > norms[static_cast<size_t>(y)]; });
  JacobiResult out;
  for (const int64_t index : order) {
    out.values.push_back(norms[static_cast<size_t>(index)]);
    if (want_right)
      out.right.insert(out.right.end(), right.begin() + index * count, right.begin() + (index + 1) * count);
  }
  return out;
}

}  // namespace galvani
