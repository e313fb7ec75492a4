// Where in a matrix an update lies: Σ Δ² per row and per column (weights_types.h). Two passes over the bytes: a block
// per row adds along it, and a thread per column adds down a band of rows, whose results a third kernel adds in order.
#include "ops/gpu/dev.h"
#include "ops/gpu/launchers.h"
#include "ops/gpu/weight_load.h"

namespace galvani::gpu {
namespace {

constexpr int kThreads = 256;

DEV_FN double square_at(const WeightMassParams& p, int64_t at) {
  float w[3];
  bool finite = true;
  DEV_UNROLL
  for (int v = 0; v < 3; ++v)
    if (v < p.count) {
      w[v] = load_weight(p.versions[v], p.types[v], at);
      finite = finite && (as_bits(w[v]) & 0x7f800000u) != 0x7f800000u;
    }
  const float delta = p.step == 0 ? w[1] - w[0] : w[2] - w[1];
  const double d = finite ? delta : 0.0f;
  return d * d;
}

DEV_KERNEL(kThreads, 4) row_mass_kernel(DEV_PARAM const WeightMassParams p) {
  DEV_SHARED(shared);
  double* partial = reinterpret_cast<double*>(shared);
  double sum = 0;
  for (int64_t c = dev::tid(); c < p.columns; c += kThreads) sum += square_at(p, dev::bid() * p.columns + c);
  sum = warp_total(sum);
  if ((dev::tid() & 31) == 0) partial[dev::tid() >> 5] = sum;
  dev::sync();
  if (dev::tid() == 0) {
    double total = 0;
    for (int w = 0; w < kThreads / 32; ++w) total += partial[w];
    p.row_squares[dev::bid()] = total;
  }
}

DEV_KERNEL(kThreads, 4) column_mass_kernel(DEV_PARAM const WeightMassParams p) {
  const int64_t column = static_cast<int64_t>(dev::bid()) * kThreads + dev::tid();
  if (column >= p.columns) return;
  const int64_t first = static_cast<int64_t>(dev::bid_y()) * kMassBand;
  const int64_t last = first + kMassBand < p.rows ? first + kMassBand : p.rows;
  double sum = 0;
  for (int64_t row = first; row < last; ++row) sum += square_at(p, row * p.columns + column);
  p.partial[dev::bid_y() * p.columns + column] = sum;
}

DEV_KERNEL(kThreads, 4) column_mass_finish_kernel(DEV_PARAM const WeightMassParams p) {
  const int64_t column = static_cast<int64_t>(dev::bid()) * kThreads + dev::tid();
  if (column >= p.columns) return;
  double sum = 0;
  for (int64_t band = 0; band * kMassBand < p.rows; ++band) sum += p.partial[band * p.columns + column];
  p.column_squares[column] = sum;
}

}  // namespace

int weight_mass_launch(const WeightMassParams& p, void* stream) {
  if (p.count != 2 && p.count != 3) return refuse("%d versions; expected 2 or 3", p.count);
  if (p.step < 0 || p.step > p.count - 2) return refuse("step %d of %d", p.step, p.count - 1);
  const int64_t bands = (p.rows + kMassBand - 1) / kMassBand;
  if (p.rows < 0 || p.columns < 0 || p.rows > INT32_MAX || bands > kMaxGridY || p.columns > INT32_MAX)
    return refuse("%lld × %lld", static_cast<long long>(p.rows), static_cast<long long>(p.columns));
  if (const int code = refuse_weights(p.versions, p.types, p.count)) return code;
  const dev::Grid columns{(p.columns + kThreads - 1) / kThreads, 1};
  constexpr size_t kShared = kThreads / 32 * sizeof(double);
  if (const int code = DEV_LAUNCH(row_mass_kernel, (dev::Grid{p.rows, 1}), kThreads, kShared, stream, p)) return code;
  if (const int code = DEV_LAUNCH(column_mass_kernel, (dev::Grid{columns.x, bands}), kThreads, 0, stream, p)) return code;
  return DEV_LAUNCH(column_mass_finish_kernel, columns, kThreads, 0, stream, p);
}

}  // namespace galvani::gpu
