#include "weights/low_rank.h"

#include <algorithm>
#include <cmath>

#include "core/status.h"
#include "io/json.h"
#include "ops/spectrum.h"
#include "weights/merge.h"
#include "weights/source.h"

namespace galvani {
namespace {

void write_matrix(SafetensorsWriter& writer, const std::string& name, const std::vector<float>& values, DType dtype) {
  std::vector<double> stored((values.size() * static_cast<size_t>(dtype_size(dtype)) + 7) / 8 + 1);
  const auto count = static_cast<int64_t>(values.size());
  narrow(values.data(), count, dtype, stored.data());
  writer.write(name, stored.data(), count * dtype_size(dtype));
}

}  // namespace

LowRank write_low_rank(const std::string& path, const std::map<std::string, std::string>& metadata,
                       const Checkpoint& before, const std::string& before_name, const Checkpoint& after,
                       const std::string& after_name, const std::string& name_a, const std::string& name_b,
                       const LowRankOptions& options, ThreadPool& pool, const Poll& poll) {
  Readers readers;
  const StoredSource old(before, before_name, readers), fresh(after, after_name, readers);
  const auto& shape = old.stored().shape;
  const std::string where = "tensor " + quoted(after_name);
  if (shape != fresh.stored().shape || shape.size() != 2)
    throw Error(Code::kShapeMismatch, where + ": expected two matrices of one shape, got " + shape_text(shape) +
                                          " in " + before.path() + " and " + shape_text(fresh.stored().shape) + " in " +
                                          after.path());
  for (const StoredSource* source : {&old, &fresh})
    if (!is_float(source->stored().dtype)) throw Error(Code::kUnsupported, where + ": not a float tensor");
  const int64_t rows = shape[0], columns = shape[1];
  std::vector<double> squares(static_cast<size_t>(rows));
  const MatrixSource delta{rows, columns, [&](int64_t row, int64_t n, int64_t column, int64_t m, float* out) {
                             std::vector<float> base(static_cast<size_t>(m));
                             for (int64_t i = 0; i < n; ++i) {
                               const int64_t begin = (row + i) * columns + column;
                               old.read(begin, m, base.data());
                               fresh.read(begin, m, out + i * m);
                               for (int64_t j = 0; j < m; ++j) out[i * m + j] -= base[static_cast<size_t>(j)];
                             }
                           }};
  pool.run(rows, [&](int64_t row) {
    std::vector<float> values(static_cast<size_t>(columns));
    delta.block(row, 1, 0, columns, values.data());
    double sum = 0;
    for (const float value : values) sum += static_cast<double>(value) * static_cast<double>(value);
    squares[static_cast<size_t>(row)] = sum;
  });
  LowRank out;
  for (const double square : squares) out.square += square;
  if (!std::isfinite(out.square)) throw Error(Code::kBadFile, where + ": entries that are not finite");
  Spectrum spectrum;
  if (out.square > 0) {
    spectrum = galvani::spectrum(delta, SpectrumMethod::kAuto, options.rank, pool, poll);
    double kept = 0;
    while (out.rank < spectrum.leading && spectrum.values[static_cast<size_t>(out.rank)] > options.least &&
           (out.rank == 0 || kept < options.energy * out.square)) {
      const double value = spectrum.values[static_cast<size_t>(out.rank++)];
      out.values.push_back(value);
      kept += value * value;
    }
  }
  SafetensorsWriter writer(path, metadata);
  if (out.rank > 0) {
    // The side that A spans, and the other; both vectors come as rows of the spectrum.
    const std::vector<double>&a_side = options.transposed ? spectrum.left : spectrum.right,
          &b_side = options.transposed ? spectrum.right : spectrum.left;
    const int64_t a_width = options.transposed ? rows : columns, b_width = options.transposed ? columns : rows;
    std::vector<float> a(static_cast<size_t>(out.rank * a_width)), b(static_cast<size_t>(b_width * out.rank));
    for (int64_t r = 0; r < out.rank; ++r) {
      const double root = std::sqrt(out.values[static_cast<size_t>(r)]);
      for (int64_t i = 0; i < a_width; ++i)
        a[static_cast<size_t>(r * a_width + i)] =
            static_cast<float>(root * a_side[static_cast<size_t>(r * a_width + i)]);
      for (int64_t i = 0; i < b_width; ++i)
        b[static_cast<size_t>(i * out.rank + r)] =
            static_cast<float>(root * b_side[static_cast<size_t>(r * b_width + i)]);
    }
    writer.declare(name_a, options.dtype, {out.rank, a_width});
    writer.declare(name_b, options.dtype, {b_width, out.rank});
    write_matrix(writer, name_a, a, options.dtype);
    write_matrix(writer, name_b, b, options.dtype);
  }
  writer.finish();
  return out;
}

}  // namespace galvani
