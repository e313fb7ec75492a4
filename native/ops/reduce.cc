#include "ops/reduce.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/simd.h"
#include "core/status.h"
#include "ops/reduce_chunk.h"

namespace galvani {
namespace {

// Bands computed side by side before their column sums are added up: bounds what those need, 64 × columns.
constexpr int64_t kRound = 64;

GALVANI_DEFINE_ADD_TILE(add_tile_portable)

AddTile pick() {
#if defined(__x86_64__)
  if (cpu_isa() == Isa::kAvx512) return add_tile_avx512;
  if (cpu_isa() == Isa::kAvx2) return add_tile_avx2;
#endif
  return add_tile_portable;
}

// How the matrix is cut: bands of whole rows, or of a part of one row where rows are long; either way a band is one
// stretch of elements. Of the shape alone.
struct Bands {
  int64_t rows, columns, band_rows, band_columns, down, across;

  explicit Bands(const TensorView& view) {
    rows = view.shape.size() < 2 ? 1 : view.shape[0];
    columns = rows ? view.elements() / rows : 0;
    band_columns = std::min<int64_t>(columns, 65'536);
    const int64_t wanted = std::clamp<int64_t>(rows * columns / 128, 65'536, int64_t{1} << 21);
    across = band_columns ? (columns + band_columns - 1) / band_columns : 0;
    band_rows = across == 1 ? std::clamp<int64_t>(wanted / band_columns, 1, rows) : 1;
    down = (rows + band_rows - 1) / band_rows;
  }
  int64_t count() const { return columns ? down * across : 0; }
};

// Zeroes the entries that are not finite in every version; returns how many.
int64_t drop_non_finite(float (*tiles)[kTile], size_t versions, int64_t count) {
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

// The stored bytes of one version along a band, from memory or piece by piece into a buffer of the thread's.
class Stored {
 public:
  Stored(const TensorView& view, size_t version, int64_t end, const ReadHooks& hooks)
      : view_(view), version_(version), end_(end), hooks_(hooks) {}

  void widen(int64_t at, int64_t count, float* out) {
    const TensorView piece{view_.dtype, {count}, bytes(at, count)};
    galvani::widen(piece, 0, count, out);
  }
  const uint16_t* bf16(int64_t at, int64_t count) { return reinterpret_cast<const uint16_t*>(bytes(at, count)); }

 private:
  // Elements [at, at + count) until the next call.
  const std::byte* bytes(int64_t at, int64_t count) {
    const int64_t size = dtype_size(view_.dtype);
    if (!hooks_.read) return view_.data + at * size;
    if (at + count > begin_ + held_) {
      begin_ = at;
      held_ = std::min(kPiece / size, end_ - at);
      buffer().resize(kPiece);
      hooks_.read(version_, begin_, held_, buffer().data());
    }
    return buffer().data() + (at - begin_) * size;
  }

  // The kernel copies into it and the tiles read it: three of them fit into L2 together.
  static constexpr int64_t kPiece = 128 << 10;
  std::vector<std::byte>& buffer() const {
    thread_local std::vector<std::byte> buffers[3];
    return buffers[version_];
  }

  const TensorView& view_;
  size_t version_;
  int64_t begin_ = 0, held_ = 0, end_;
  const ReadHooks& hooks_;
};

// What one band found; its row and column sums go to `rows` (of the whole tensor) and `columns` (of this band).
struct BandResult {
  DeltaSums sums;
  std::vector<double> columns[2];
  std::vector<double> rows[2];
};

void band_sums(const std::vector<const TensorView*>& versions, const Bands& bands, int64_t index, bool mass,
               AddTile add, const ReadHooks& hooks, BandResult& result) {
  const int64_t row_begin = index / bands.across * bands.band_rows;
  const int64_t row_end = std::min(bands.rows, row_begin + bands.band_rows);
  const int64_t column_begin = index % bands.across * bands.band_columns;
  const int64_t width = std::min(bands.band_columns, bands.columns - column_begin);
  const size_t steps = versions.size() - 1;
  result = {};
  if (mass) {
    for (size_t s = 0; s < steps; ++s) {
      result.columns[s].assign(static_cast<size_t>(width + kLanes), 0.0);  // room for a padded tile
      result.rows[s].assign(static_cast<size_t>(row_end - row_begin), 0.0);
    }
  }
  BandSums lanes{};
  DeltaSums& out = result.sums;
  alignas(32) float tiles[3][kTile];
  const int64_t end = (row_end - 1) * bands.columns + column_begin + width;
  std::vector<Stored> stored;
  for (size_t v = 0; v <= steps; ++v) stored.emplace_back(*versions[v], v, end, hooks);
  const bool all_bf16 =
      std::all_of(versions.begin(), versions.end(), [](const TensorView* view) { return view->dtype == DType::kBF16; });
  int64_t padding = 0;
  for (int64_t row = row_begin; row < row_end; ++row) {
    for (int64_t at = 0; at < width; at += kTile) {
      const int64_t count = std::min(kTile, width - at), padded = (count + kLanes - 1) / kLanes * kLanes;
      const int64_t first = row * bands.columns + column_begin + at;
      Tile tile{{tiles[0], tiles[1], tiles[2]}, {nullptr, nullptr, nullptr}, padded, {nullptr, nullptr}, {0, 0}};
      const auto widen_all = [&] {
        for (size_t v = 0; v < versions.size(); ++v) {
          tile.bf16[v] = nullptr;
          stored[v].widen(first, count, tiles[v]);
          std::fill(tiles[v] + count, tiles[v] + padded, 0.0f);
        }
      };
      if (all_bf16 && padded == count)
        for (size_t v = 0; v < versions.size(); ++v) tile.bf16[v] = stored[v].bf16(first, count);
      else
        widen_all();
      for (size_t s = 0; mass && s < steps; ++s) tile.columns[s] = result.columns[s].data() + at;
      padding += padded - count;
      if (!add(&tile, static_cast<int>(steps + 1), &lanes)) {
        widen_all();
        out.non_finite += drop_non_finite(tiles, versions.size(), count);
        GALVANI_CHECK(add(&tile, static_cast<int>(steps + 1), &lanes));
      }
      for (size_t s = 0; mass && s < steps; ++s) result.rows[s][static_cast<size_t>(row - row_begin)] += tile.row[s];
    }
  }
  out.elements = (row_end - row_begin) * width - out.non_finite;
  for (size_t v = 0; v < versions.size(); ++v) out.weight_square[v] = total(lanes.still) + total(lanes.weight[v]);
  for (size_t s = 0; s < steps; ++s) {
    StepSums& step = out.steps[s];
    step.sum = total(lanes.sum[s]);
    step.square = total(lanes.square[s]);
    step.cube = total(lanes.cube[s]);
    step.fourth = total(lanes.fourth[s]);
    for (const uint32_t bits : lanes.max_abs[s])
      step.max_abs = std::max(step.max_abs, static_cast<double>(bits_to_float(bits)));
    // Padding and dropped entries were zero in every version.
    const int64_t still = lanes.still_count - padding - out.non_finite;
    step.identical = total(lanes.identical[s]) + still;
    step.zero = total(lanes.zero[s]) + still;
    spill_ulps(lanes, static_cast<int>(s));
    std::copy_n(lanes.ulps[s], kUlpBins, step.ulps.begin());
  }
  out.dot = total(lanes.dot);
  out.same_sign = total(lanes.same);
  out.opposite_sign = total(lanes.opposite);
}

void add(DeltaSums& to, const DeltaSums& from) {
  to.elements += from.elements;
  to.non_finite += from.non_finite;
  for (int v = 0; v < 3; ++v) to.weight_square[v] += from.weight_square[v];
  for (int s = 0; s < 2; ++s) {
    StepSums& step = to.steps[s];
    step.sum += from.steps[s].sum;
    step.square += from.steps[s].square;
    step.cube += from.steps[s].cube;
    step.fourth += from.steps[s].fourth;
    step.max_abs = std::max(step.max_abs, from.steps[s].max_abs);
    step.identical += from.steps[s].identical;
    step.zero += from.steps[s].zero;
    for (size_t bin = 0; bin < kUlpBins; ++bin) step.ulps[bin] += from.steps[s].ulps[bin];
  }
  to.dot += from.dot;
  to.same_sign += from.same_sign;
  to.opposite_sign += from.opposite_sign;
}

void add_mass(DeltaSums& to, const BandResult& from, const Bands& bands, int64_t index, size_t steps) {
  const int64_t row = index / bands.across * bands.band_rows, column = index % bands.across * bands.band_columns;
  const auto width = static_cast<size_t>(std::min(bands.band_columns, bands.columns - column));
  for (size_t s = 0; s < steps; ++s) {
    double* rows = to.steps[s].rows.data() + row;
    double* columns = to.steps[s].columns.data() + column;
    for (size_t i = 0; i < from.rows[s].size(); ++i) rows[i] += from.rows[s][i];
    for (size_t i = 0; i < width; ++i) columns[i] += from.columns[s][i];
  }
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

DeltaSums delta_sums(const std::vector<const TensorView*>& versions, ThreadPool& pool, bool mass,
                     const ReadHooks& hooks) {
  GALVANI_CHECK(versions.size() == 2 || versions.size() == 3);
  for (size_t v = 1; v < versions.size(); ++v) check_pair(*versions[0], *versions[v]);
  static const AddTile add_one = pick();
  const Bands bands(*versions[0]);
  const size_t steps = versions.size() - 1;
  mass = mass && versions[0]->shape.size() >= 2;
  DeltaSums sums;
  for (size_t s = 0; mass && s < steps; ++s) {
    sums.steps[s].rows.assign(static_cast<size_t>(bands.rows), 0.0);
    sums.steps[s].columns.assign(static_cast<size_t>(bands.columns), 0.0);
  }
  std::vector<BandResult> round(static_cast<size_t>(std::min(kRound, bands.count())));
  for (int64_t first = 0; first < bands.count(); first += kRound) {
    const int64_t count = std::min(kRound, bands.count() - first);
    pool.run(count, [&](int64_t i) {
      const int64_t index = first + i;
      const int64_t row = index / bands.across * bands.band_rows, column = index % bands.across * bands.band_columns;
      const int64_t begin = row * bands.columns + column;
      const int64_t end = bands.across == 1 ? std::min(row + bands.band_rows, bands.rows) * bands.columns
                                            : row * bands.columns + std::min(column + bands.band_columns, bands.columns);
      if (hooks.before) hooks.before(begin, end);
      band_sums(versions, bands, index, mass, add_one, hooks, round[static_cast<size_t>(i)]);
      if (hooks.after) hooks.after(begin, end);
    });
    for (int64_t i = 0; i < count; ++i) {
      add(sums, round[static_cast<size_t>(i)].sums);
      if (mass) add_mass(sums, round[static_cast<size_t>(i)], bands, first + i, steps);
    }
  }
  return sums;
}

}  // namespace galvani
