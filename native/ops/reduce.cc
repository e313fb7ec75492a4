#include "ops/reduce.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/simd.h"
#include "core/status.h"
#include "ops/reduce_chunk.h"

namespace galvani {
namespace {

constexpr int64_t kChunk = 65'536, kTile = 1024;

GALVANI_DEFINE_ADD_TILE(add_tile_portable)

AddTile pick() {
#if defined(__x86_64__)
  if (cpu_isa() == Isa::kAvx512) return add_tile_avx512;
  if (cpu_isa() == Isa::kAvx2) return add_tile_avx2;
#endif
  return add_tile_portable;
}

// Zeroes the entries that are not finite in every version; returns how many.
int64_t drop_non_finite(float (*tiles)[kTile], size_t versions, int64_t count) {
  constexpr uint32_t kExponent = 0x7f800000u;
  uint32_t any = 0;
  for (size_t v = 0; v < versions; ++v)
    for (int64_t i = 0; i < count; ++i) any |= (float_to_bits(tiles[v][i]) & kExponent) == kExponent;
  if (!any) return 0;
  int64_t dropped = 0;
  for (int64_t i = 0; i < count; ++i) {
    bool bad = false;
    for (size_t v = 0; v < versions; ++v) bad |= !std::isfinite(tiles[v][i]);
    for (size_t v = 0; bad && v < versions; ++v) tiles[v][i] = 0;
    dropped += bad;
  }
  return dropped;
}

double total(const double* lanes) {
  double sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) sum += lanes[lane];
  return sum;
}
int64_t total(const uint32_t* lanes) {
  int64_t sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) sum += lanes[lane];
  return sum;
}

DeltaSums chunk_sums(const std::vector<const TensorView*>& versions, int64_t begin, int64_t end, AddTile add) {
  TileSums lanes{};
  DeltaSums out;
  float tiles[3][kTile];
  const float* w[3] = {tiles[0], tiles[1], tiles[2]};
  int64_t padding = 0;
  for (int64_t at = begin; at < end; at += kTile) {
    const int64_t count = std::min(kTile, end - at), padded = (count + kLanes - 1) / kLanes * kLanes;
    for (size_t v = 0; v < versions.size(); ++v) {
      widen(*versions[v], at, count, tiles[v]);
      std::fill(tiles[v] + count, tiles[v] + padded, 0.0f);
    }
    out.non_finite += drop_non_finite(tiles, versions.size(), count);
    padding += padded - count;
    add(w, static_cast<int>(versions.size()), padded, &lanes);
  }
  out.elements = end - begin - out.non_finite;
  for (size_t v = 0; v < versions.size(); ++v) out.weight_square[v] = total(lanes.weight[v]);
  for (size_t s = 0; s + 1 < versions.size(); ++s) {
    StepSums& step = out.steps[s];
    step.square = total(lanes.square[s]);
    for (const float size : lanes.max_abs[s]) step.max_abs = std::max(step.max_abs, static_cast<double>(size));
    // Padding and dropped entries were zero in every version.
    step.identical = total(lanes.identical[s]) - padding - out.non_finite;
    step.zero = total(lanes.zero[s]) - padding - out.non_finite;
    for (int lane = 0; lane < kLanes; ++lane)
      for (int bin = 0; bin < kUlpBins; ++bin) step.ulps[static_cast<size_t>(bin)] += lanes.ulps[s][lane][bin];
  }
  out.dot = total(lanes.dot);
  out.same_sign = total(lanes.same);
  out.opposite_sign = total(lanes.opposite);
  return out;
}

void add(DeltaSums& to, const DeltaSums& from) {
  to.elements += from.elements;
  to.non_finite += from.non_finite;
  for (int v = 0; v < 3; ++v) to.weight_square[v] += from.weight_square[v];
  for (int s = 0; s < 2; ++s) {
    StepSums& step = to.steps[s];
    step.square += from.steps[s].square;
    step.max_abs = std::max(step.max_abs, from.steps[s].max_abs);
    step.identical += from.steps[s].identical;
    step.zero += from.steps[s].zero;
    for (size_t bin = 0; bin < kUlpBins; ++bin) step.ulps[bin] += from.steps[s].ulps[bin];
  }
  to.dot += from.dot;
  to.same_sign += from.same_sign;
  to.opposite_sign += from.opposite_sign;
}

void check_pair(const TensorView& a, const TensorView& b) {
  if (a.elements() != b.elements())
    throw Error(Code::kShapeMismatch, "expected shape " + shape_text(a.shape) + ", got " + shape_text(b.shape));
  for (const TensorView* view : {&a, &b})
    if (!is_float(view->dtype))
      throw Error(Code::kUnsupported, std::string("not a float tensor: ") + dtype_name(view->dtype));
}

}  // namespace

int64_t StepSums::below_half_ulp() const {
  int64_t count = zero;
  for (size_t bin = 0; bin <= 6; ++bin) count += ulps[bin];  // |Δ|/ulp < 2^−1
  return count;
}

void widen(const TensorView& view, int64_t begin, int64_t count, float* out) {
  const std::byte* from = view.data + begin * dtype_size(view.dtype);
  if (count <= 0) return;
  if (view.dtype == DType::kF32) {
    std::memcpy(out, from, static_cast<size_t>(count) * sizeof(float));
  } else if (view.dtype == DType::kBF16) {
    const auto* bits = reinterpret_cast<const uint16_t*>(from);
    for (int64_t i = 0; i < count; ++i) out[i] = bf16_to_float(bits[i]);
  } else {
    for (int64_t i = 0; i < count; ++i) out[i] = load_float(from, view.dtype, i);
  }
}

DeltaSums delta_sums(const std::vector<const TensorView*>& versions, ThreadPool& pool) {
  GALVANI_CHECK(versions.size() == 2 || versions.size() == 3);
  for (size_t v = 1; v < versions.size(); ++v) check_pair(*versions[0], *versions[v]);
  const int64_t elements = versions[0]->elements(), chunks = (elements + kChunk - 1) / kChunk;
  static const AddTile add_one = pick();
  std::vector<DeltaSums> parts(static_cast<size_t>(chunks));
  pool.run(chunks, [&](int64_t chunk) {
    const int64_t begin = chunk * kChunk;
    parts[static_cast<size_t>(chunk)] = chunk_sums(versions, begin, std::min(elements, begin + kChunk), add_one);
  });
  DeltaSums sums;
  for (const DeltaSums& part : parts) add(sums, part);
  return sums;
}

Mass delta_mass(const TensorView& before, const TensorView& after, ThreadPool& pool) {
  check_pair(before, after);
  const int64_t rows = before.shape.empty() ? 1 : before.shape[0];
  const int64_t columns = rows ? before.elements() / rows : 0;
  constexpr int64_t kStrip = 512;
  const int64_t strips = (columns + kStrip - 1) / kStrip;
  Mass mass{std::vector<double>(static_cast<size_t>(rows)), std::vector<double>(static_cast<size_t>(columns))};
  std::vector<double> parts(static_cast<size_t>(rows * strips));
  pool.run(strips, [&](int64_t strip) {
    const int64_t begin = strip * kStrip, count = std::min(kStrip, columns - begin);
    float a[kStrip], b[kStrip];
    for (int64_t row = 0; row < rows; ++row) {
      widen(before, row * columns + begin, count, a);
      widen(after, row * columns + begin, count, b);
      double sum = 0;
      for (int64_t i = 0; i < count; ++i) {
        const double d = b[i] - a[i];
        mass.columns[static_cast<size_t>(begin + i)] += d * d;
        sum += d * d;
      }
      parts[static_cast<size_t>(row * strips + strip)] = sum;
    }
  });
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t strip = 0; strip < strips; ++strip)
      mass.rows[static_cast<size_t>(row)] += parts[static_cast<size_t>(row * strips + strip)];
  return mass;
}

bool identical(const TensorView& a, const TensorView& b) {
  if (a.dtype != b.dtype || a.shape != b.shape) return false;
  const auto bytes = static_cast<size_t>(a.bytes());
  return bytes == 0 || a.data == b.data || std::memcmp(a.data, b.data, bytes) == 0;
}

}  // namespace galvani
