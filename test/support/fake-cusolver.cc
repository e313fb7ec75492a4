// A cuSOLVER for machines without one: the six functions by their documented contract (column-major, one triangle read,
// values ascending, vectors over the columns), with host memory for the device's, by cyclic Jacobi. Strict about what it is
// given. -DFAIL=1: the handle cannot be made; 2: a value does not converge.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#ifndef FAIL
#define FAIL 0
#endif

namespace {
int a_handle, some_params;
constexpr int kInvalid = 3, kNotInitialised = 1;

bool good(void* handle, void* params, int mode, int triangle, int64_t n, int a_type, const void* a, int64_t lda, int w_type,
          const void* w, int compute_type) {
  return handle == &a_handle && params == &some_params && (mode == 0 || mode == 1) && triangle == 0 && n > 0 && lda == n &&
         a_type == 1 && w_type == 1 && compute_type == 1 && a && w;
}
size_t device_bytes(int64_t n) { return static_cast<size_t>(2 * n * n) * sizeof(double); }
size_t host_bytes(int64_t n) { return static_cast<size_t>(n) * sizeof(int64_t); }
}  // namespace

extern "C" {

int cusolverGetVersion(int* version) { return *version = 12345, 0; }
int cusolverDnCreate(void** handle) { return *handle = &a_handle, FAIL == 1 ? kNotInitialised : 0; }
int cusolverDnSetStream(void* handle, void*) { return handle == &a_handle ? 0 : kInvalid; }
int cusolverDnCreateParams(void** params) { return *params = &some_params, 0; }

int cusolverDnXsyevd_bufferSize(void* handle, void* params, int mode, int triangle, int64_t n, int a_type, const void* a,
                                int64_t lda, int w_type, const void* w, int compute_type, size_t* on_device,
                                size_t* on_host) {
  if (!good(handle, params, mode, triangle, n, a_type, a, lda, w_type, w, compute_type)) return kInvalid;
  return *on_device = device_bytes(n), *on_host = host_bytes(n), 0;
}

int cusolverDnXsyevd(void* handle, void* params, int mode, int triangle, int64_t n, int a_type, void* a, int64_t lda,
                     int w_type, void* w, int compute_type, void* on_device, size_t bytes, void* on_host, size_t more,
                     int* info) {
  if (!good(handle, params, mode, triangle, n, a_type, a, lda, w_type, w, compute_type)) return kInvalid;
  if (bytes < device_bytes(n) || more < host_bytes(n) || !on_device || !on_host || !info) return kInvalid;
  auto* matrix = static_cast<double*>(a);
  auto* work = static_cast<double*>(on_device);  // (n, n) the whole matrix, then (n, n) vectors as columns
  double* vectors = work + n * n;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) {
      work[i * n + j] = i >= j ? matrix[j * n + i] : matrix[i * n + j];  // lower, column-major: (row i, column j) at j n + i
      vectors[i * n + j] = i == j;
    }
  for (int sweep = 0; sweep < 60; ++sweep)
    for (int64_t p = 0; p < n; ++p)
      for (int64_t q = p + 1; q < n; ++q) {
        const double off = work[p * n + q];
        if (off == 0) continue;
        const double theta = (work[q * n + q] - work[p * n + p]) / (2 * off);
        const double t = (theta >= 0 ? 1 : -1) / (std::fabs(theta) + std::sqrt(theta * theta + 1));
        const double c = 1 / std::sqrt(t * t + 1), s = t * c;
        const auto rotate = [&](double& x, double& y) {
          const double old = x;
          x = c * old - s * y;
          y = s * old + c * y;
        };
        for (int64_t i = 0; i < n; ++i) rotate(work[i * n + p], work[i * n + q]);
        for (int64_t i = 0; i < n; ++i) rotate(work[p * n + i], work[q * n + i]);
        for (int64_t i = 0; i < n; ++i) rotate(vectors[i * n + p], vectors[i * n + q]);
      }
  auto* order = static_cast<int64_t*>(on_host);
  std::iota(order, order + n, int64_t{0});
  std::sort(order, order + n, [&](int64_t i, int64_t j) { return work[i * n + i] < work[j * n + j]; });
  // Without vectors the matrix comes back destroyed.
  for (int64_t j = 0; j < n; ++j) {
    static_cast<double*>(w)[j] = work[order[j] * n + order[j]];
    for (int64_t i = 0; i < n; ++i) matrix[j * n + i] = mode == 1 ? vectors[i * n + order[j]] : std::nan("");
  }
  *info = FAIL == 2 ? 4 : 0;
  return 0;
}
}
