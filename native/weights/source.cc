#include "weights/source.h"

#include <algorithm>
#include <cstring>

#include "core/status.h"
#include "io/json.h"
#include "ops/combine_kernels.h"

namespace galvani {

void widen(const void* from, DType dtype, int64_t count, float* to) {
  if (dtype == DType::kF32)
    std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
  else if (dtype == DType::kBF16)
    combine_kernels().widen_bf16(static_cast<const uint16_t*>(from), count, to);
  else if (dtype == DType::kF16)
    combine_kernels().widen_f16(static_cast<const uint16_t*>(from), count, to);
  else
    for (int64_t i = 0; i < count; ++i) to[i] = load_float(from, dtype, i);
}

std::shared_ptr<FileReader> Readers::of(const std::string& path) {
  std::shared_ptr<FileReader>& reader = open_[path];
  if (!reader) reader = std::make_shared<FileReader>(path);
  return reader;
}

StoredSource::StoredSource(const Checkpoint& checkpoint, const std::string& name, Readers& readers)
    : stored_(checkpoint.stored(name)), file_(readers.of(stored_.file)) {}

void StoredSource::read_bytes(int64_t begin, int64_t bytes, void* out) const {
  GALVANI_CHECK(begin >= 0 && bytes >= 0 && begin + bytes <= stored_.bytes);
  file_->read(out, bytes, stored_.offset + begin);
}

void StoredSource::read(int64_t begin, int64_t count, float* out) const {
  const int64_t size = dtype_size(stored_.dtype);
  if (stored_.dtype == DType::kF32) return read_bytes(begin * 4, count * 4, out);
  constexpr int64_t kStep = 16'384;
  alignas(8) std::byte buffer[kStep * 2];
  for (const int64_t step = kStep * 2 / size; count > 0;) {
    const int64_t now = std::min(step, count);
    read_bytes(begin * size, now * size, buffer);
    widen(buffer, stored_.dtype, now, out);
    begin += now, count -= now, out += now;
  }
}

namespace {

std::vector<float> read_all(const StoredSource& source, int64_t elements) {
  std::vector<float> out(static_cast<size_t>(elements));
  source.read(0, elements, out.data());
  return out;
}
std::vector<float> transpose(const std::vector<float>& x, int64_t rows, int64_t columns) {
  std::vector<float> out(x.size());
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c)
      out[static_cast<size_t>(c * rows + r)] = x[static_cast<size_t>(r * columns + c)];
  return out;
}

}  // namespace

AdapterSource::AdapterSource(std::shared_ptr<const StoredSource> weight, const StoredSource& a, const StoredSource& b,
                             double scale, bool transposed, const std::string& what)
    : weight_(std::move(weight)) {
  const auto &w = weight_->stored().shape, &as = a.stored().shape, &bs = b.stored().shape;
  const bool fits = w.size() == 2 && as.size() == 2 && bs.size() == 2 && as[0] == bs[1] &&
                    (transposed ? bs[0] == w[1] && as[1] == w[0] : bs[0] == w[0] && as[1] == w[1]);
  if (!fits)
    throw Error(Code::kShapeMismatch, what + ": an adapter of A " + shape_text(as) + " and B " + shape_text(bs) +
                                          " does not fit a weight of " + shape_text(w));
  columns_ = w[1];
  rank_ = as[0];
  std::vector<float> left = read_all(b, bs[0] * bs[1]), right = read_all(a, as[0] * as[1]);
  if (transposed) {
    std::swap(left, right);
    left = transpose(left, as[0], as[1]);    // (rows, rank)
    right = transpose(right, bs[0], bs[1]);  // (rank, columns)
  }
  left_.assign(left.begin(), left.end());
  for (double& value : left_) value *= scale;
  right_ = std::move(right);
}

void AdapterSource::read(int64_t begin, int64_t count, float* out) const {
  weight_->read(begin, count, out);
  const CombineKernels& kernels = combine_kernels();
  std::vector<double> sums;
  while (count > 0) {
    const int64_t row = begin / columns_, column = begin % columns_, now = std::min(count, columns_ - column);
    sums.assign(out, out + now);
    for (int64_t r = 0; r < rank_; ++r)
      kernels.add_scaled(left_[static_cast<size_t>(row * rank_ + r)], right_.data() + r * columns_ + column,
                         sums.data(), now);
    for (int64_t i = 0; i < now; ++i) out[i] = static_cast<float>(sums[static_cast<size_t>(i)]);
    begin += now, count -= now, out += now;
  }
}

GatheredSource::GatheredSource(RowMap map, const std::string& what) : map_(std::move(map)) {
  const int64_t total = map_.first.back();
  const auto check = [&](int64_t row) {
    if (row < 0 || row >= total)
      throw Error(Code::kBadArgument, what + ": row " + std::to_string(row) + " of " + std::to_string(total) + " rows");
  };
  for (const int32_t row : map_.rows) {
    if (row >= 0)
      check(row);
    else if (row < -1 && static_cast<size_t>(-2 - static_cast<int64_t>(row)) >= map_.blends.size())
      throw Error(Code::kBadArgument,
                  what + ": blend " + std::to_string(-2 - static_cast<int64_t>(row)) + " is not given");
  }
  for (const auto& blend : map_.blends) {
    if (blend.empty()) throw Error(Code::kBadArgument, what + ": an empty blend");
    for (const int32_t row : blend) check(row);
  }
  if (map_.padding == 0) return;
  std::vector<double> sums(static_cast<size_t>(map_.columns), 0.0);
  std::vector<float> row(static_cast<size_t>(map_.columns));
  for (size_t r = 0; r < map_.rows.size(); ++r) {
    read_row(static_cast<int64_t>(r), 0, map_.columns, row.data());
    combine_kernels().add_scaled(1.0, row.data(), sums.data(), map_.columns);
  }
  for (const double sum : sums)
    mean_.push_back(static_cast<float>(sum / static_cast<double>(std::max<size_t>(1, map_.rows.size()))));
}

void GatheredSource::read_counted(int64_t row, int64_t begin, int64_t count, float* out) const {
  const auto table =
      static_cast<size_t>(std::upper_bound(map_.first.begin(), map_.first.end(), row) - map_.first.begin() - 1);
  map_.tables[table]->read((row - map_.first[table]) * map_.columns + begin, count, out);
}

void GatheredSource::read_row(int64_t row, int64_t begin, int64_t count, float* out) const {
  if (row >= static_cast<int64_t>(map_.rows.size())) {
    std::copy_n(mean_.begin() + begin, count, out);
    return;
  }
  const int32_t from = map_.rows[static_cast<size_t>(row)];
  if (from >= 0) return read_counted(from, begin, count, out);
  std::fill_n(out, count, 0.0f);
  if (from == -1) return;
  const auto& blend = map_.blends[static_cast<size_t>(-2 - static_cast<int64_t>(from))];
  std::vector<double> sums(static_cast<size_t>(count), 0.0);
  for (const int32_t one : blend) {
    read_counted(one, begin, count, out);
    combine_kernels().add_scaled(1.0, out, sums.data(), count);
  }
  for (int64_t i = 0; i < count; ++i)
    out[i] = static_cast<float>(sums[static_cast<size_t>(i)] / static_cast<double>(blend.size()));
}

void GatheredSource::read(int64_t begin, int64_t count, float* out) const {
  while (count > 0) {
    int64_t row = begin / map_.columns;
    const int64_t column = begin % map_.columns;
    int64_t now = std::min(count, map_.columns - column);
    // Neighbouring rows of one table are read together.
    const auto size = static_cast<int64_t>(map_.rows.size());
    if (row < size && map_.rows[static_cast<size_t>(row)] >= 0) {
      const int32_t from = map_.rows[static_cast<size_t>(row)];
      const auto end = *std::upper_bound(map_.first.begin(), map_.first.end(), static_cast<int64_t>(from));
      while (now < count && row + 1 < size &&
             map_.rows[static_cast<size_t>(row + 1)] == map_.rows[static_cast<size_t>(row)] + 1 &&
             map_.rows[static_cast<size_t>(row + 1)] < end) {
        ++row;
        now = std::min(count, now + map_.columns);
      }
      read_counted(from, column, now, out);
    } else {
      read_row(row, column, now, out);
    }
    begin += now, count -= now, out += now;
  }
}

}  // namespace galvani
