#include "ops/rounding.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numbers>

#include "core/status.h"
#include "ops/reduce.h"

namespace galvani {
namespace {

constexpr int kBinades = 256;  // exponent fields of float32
constexpr int64_t kChunk = 65'536, kTile = 1024;

struct Format {
  int mantissa;      // stored bits
  int min_exponent;  // of the smallest normal number
};
Format format_of(DType dtype) {
  switch (dtype) {
    case DType::kF64:
    case DType::kF32:
      return {23, -126};  // F64 is compared as float32
    case DType::kF16:
      return {10, -14};
    case DType::kBF16:
      return {7, -126};
    case DType::kF8E4M3:
      return {3, -6};
    case DType::kF8E5M2:
      return {2, -14};
    case DType::kF8E4M3Fnuz:
      return {3, -7};
    case DType::kF8E5M2Fnuz:
      return {2, -15};
    case DType::kF8E8M0:
      return {0, -127};
    default:
      throw Error(Code::kUnsupported, std::string("not a float tensor: ") + dtype_name(dtype));
  }
}

int exponent_field(float value) { return static_cast<int>((float_to_bits(value) >> 23) & 255); }

std::vector<double> spacings(DType dtype) {
  const Format format = format_of(dtype);
  std::vector<double> out(kBinades);
  for (int field = 0; field < kBinades; ++field)
    out[static_cast<size_t>(field)] = std::ldexp(1.0, std::max(field - 127, format.min_exponent) - format.mantissa);
  return out;
}

struct Group {
  int64_t count = 0;
  double steps = 0;    // Σ |Δ|/u
  double limited = 0;  // Σ min(|Δ|/u, 1)²
};

uint64_t mix(uint64_t x) {  // splitmix64's finaliser: one good random word per counter value
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

}  // namespace

double spacing(float value, DType dtype) {
  const Format format = format_of(dtype);
  return std::ldexp(1.0, std::max(exponent_field(value) - 127, format.min_exponent) - format.mantissa);
}

double rounding_energy(double mean_steps) {
  constexpr double kPi = std::numbers::pi;
  if (!(mean_steps > 0)) return 0;
  // Below 0.1 the half-normal x stays under 1 (six sigma), where f(1−f) = x − x².
  if (mean_steps < 0.1) return mean_steps - kPi / 2 * mean_steps * mean_steps;
  double sum = 1.0 / 6;
  for (int j = 1; j <= 16; ++j)
    sum -= std::exp(-kPi * kPi * kPi * j * j * mean_steps * mean_steps) / (kPi * kPi * j * j);
  return sum;
}

RoundingNoise::RoundingNoise(const TensorView& before, const TensorView& after, ThreadPool& pool)
    : before_(before), after_(after) {
  if (before.elements() != after.elements())
    throw Error(Code::kShapeMismatch,
                "expected shape " + shape_text(before.shape) + ", got " + shape_text(after.shape));
  if (!is_float(before.dtype))
    throw Error(Code::kUnsupported, std::string("not a float tensor: ") + dtype_name(before.dtype));
  const int64_t elements = after.elements();
  rows_ = after.shape.empty() ? 1 : after.shape[0];
  columns_ = rows_ ? elements / rows_ : 0;
  const std::vector<double> unit = spacings(after.dtype);
  const int64_t chunks = (elements + kChunk - 1) / kChunk;
  // Summed chunk by chunk in order: the same bits whatever the thread count.
  std::vector<std::vector<Group>> parts(static_cast<size_t>(chunks));
  pool.run(chunks, [&](int64_t chunk) {
    std::vector<Group>& groups = parts[static_cast<size_t>(chunk)];
    groups.resize(kBinades);
    float a[kTile], b[kTile];
    const int64_t end = std::min(elements, (chunk + 1) * kChunk);
    for (int64_t at = chunk * kChunk; at < end; at += kTile) {
      const int64_t count = std::min(kTile, end - at);
      widen(before_, at, count, a);
      widen(after_, at, count, b);
      for (int64_t i = 0; i < count; ++i) {
        const double delta = std::fabs(static_cast<double>(b[i] - a[i]));
        if (!std::isfinite(delta) || !std::isfinite(b[i])) continue;
        const auto field = static_cast<size_t>(exponent_field(b[i]));
        const double steps = delta / unit[field], limited = std::min(steps, 1.0);
        ++groups[field].count;
        groups[field].steps += steps;
        groups[field].limited += limited * limited;
      }
    }
  });
  std::vector<Group> total(kBinades);
  for (const auto& groups : parts)
    for (size_t field = 0; field < kBinades; ++field) {
      total[field].count += groups[field].count;
      total[field].steps += groups[field].steps;
      total[field].limited += groups[field].limited;
    }
  amplitude_.assign(kBinades, 0.0);
  for (size_t field = 0; field < kBinades; ++field) {
    const Group& group = total[field];
    if (group.limited == 0) continue;
    const double energy =
        rounding_energy(group.steps / static_cast<double>(group.count)) * static_cast<double>(group.count);
    amplitude_[field] = unit[field] * std::sqrt(energy / group.limited);
    square_ += energy * unit[field] * unit[field];
  }
}

MatrixSource RoundingNoise::draw(uint64_t seed) const {
  const uint64_t stream = mix(seed);
  std::vector<double> inverse = spacings(after_.dtype);  // powers of two: multiplying by 1/u is exact
  for (double& unit : inverse) unit = 1 / unit;
  return {rows_, columns_, [this, stream, inverse](int64_t row, int64_t n, int64_t column, int64_t m, float* out) {
            std::vector<float> before(static_cast<size_t>(m));
            for (int64_t i = 0; i < n; ++i) {
              float* to = out + i * m;
              const int64_t begin = (row + i) * columns_ + column;
              widen(before_, begin, m, before.data());
              widen(after_, begin, m, to);
              for (int64_t j = 0; j < m;) {  // one random word for every 64 entries
                const auto first = static_cast<uint64_t>(begin + j);
                const uint64_t signs = mix(stream ^ (first >> 6)) >> (first & 63);
                const int64_t run = std::min<int64_t>(m - j, 64 - static_cast<int64_t>(first & 63));
                for (int64_t l = 0; l < run; ++l, ++j) {
                  const auto field = static_cast<size_t>(exponent_field(to[j]));
                  const double steps = std::fabs(static_cast<double>(to[j] - before[static_cast<size_t>(j)])) * inverse[field];
                  const double size = std::isfinite(steps) ? amplitude_[field] * std::min(steps, 1.0) : 0.0;
                  to[j] = static_cast<float>((signs >> l) & 1 ? -size : size);
                }
              }
            }
          }};
}

MatrixSource RoundingNoise::kept_draw(uint64_t seed, ThreadPool& pool) const {
  const MatrixSource source = draw(seed);
  const int64_t elements = rows_ * columns_, columns = columns_;
  if (elements > int64_t{1} << 28) return source;
  auto kept = std::make_shared<std::vector<uint16_t>>(static_cast<size_t>(elements));
  pool.run((rows_ + 15) / 16, [&](int64_t task) {
    std::vector<float> row(static_cast<size_t>(columns));
    for (int64_t i = task * 16; i < std::min(rows_, task * 16 + 16); ++i) {
      source.block(i, 1, 0, columns, row.data());
      std::transform(row.begin(), row.end(), kept->begin() + i * columns, float_to_bf16);
    }
  });
  return {rows_, columns_, [kept, columns](int64_t row, int64_t n, int64_t column, int64_t m, float* out) {
            for (int64_t i = 0; i < n; ++i)
              for (int64_t j = 0; j < m; ++j)
                out[i * m + j] = bf16_to_float((*kept)[static_cast<size_t>((row + i) * columns + column + j)]);
          }};
}

}  // namespace galvani
