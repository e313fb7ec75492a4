#include "ops/widen.h"

#include <array>
#include <cstring>

namespace galvani {
namespace {

// Loops of one type each, without a switch inside, so that they vectorise. memcpy: the bytes may lie anywhere.
template <typename Stored, typename Convert>
void convert(const std::byte* from, int64_t count, float* out, Convert&& one) {
  for (int64_t i = 0; i < count; ++i) {
    Stored stored;
    std::memcpy(&stored, from + i * static_cast<int64_t>(sizeof stored), sizeof stored);
    out[i] = one(stored);
  }
}

// IEEE half without branches: shifted into float32 and scaled by 2^112, which also puts subnormals right.
float half(uint16_t bits) {
  const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fff) << 13;
  uint32_t scaled = float_to_bits(bits_to_float(magnitude) * 0x1p112f);
  scaled |= magnitude >= 0x0f800000u ? 0x7f800000u : 0u;  // infinities and NaN
  return bits_to_float(scaled | (static_cast<uint32_t>(bits & 0x8000) << 16));
}

using Table = std::array<float, 256>;
const Table& table_of(DType dtype) {
  auto make = [](DType type) {
    Table table{};
    for (int bits = 0; bits < 256; ++bits) {
      const auto byte = static_cast<unsigned char>(bits);
      table[static_cast<size_t>(bits)] = load_float(&byte, type, 0);
    }
    return table;
  };
  static const Table kTables[] = {make(DType::kF8E4M3), make(DType::kF8E5M2), make(DType::kF8E4M3Fnuz),
                                  make(DType::kF8E5M2Fnuz), make(DType::kF8E8M0)};
  return kTables[static_cast<int>(dtype) - static_cast<int>(DType::kF8E4M3)];
}

}  // namespace

void widen(const TensorView& view, int64_t begin, int64_t count, float* out) {
  if (count <= 0) return;
  const std::byte* from = view.data + begin * dtype_size(view.dtype);
  switch (view.dtype) {
    case DType::kF32:
      std::memcpy(out, from, static_cast<size_t>(count) * sizeof(float));
      return;
    case DType::kBF16:
      return convert<uint16_t>(from, count, out, bf16_to_float);
    case DType::kF16:
      return convert<uint16_t>(from, count, out, half);
    case DType::kF64:
      return convert<double>(from, count, out, [](double value) { return static_cast<float>(value); });
    case DType::kF8E4M3:
    case DType::kF8E5M2:
    case DType::kF8E4M3Fnuz:
    case DType::kF8E5M2Fnuz:
    case DType::kF8E8M0: {
      const Table& table = table_of(view.dtype);
      return convert<uint8_t>(from, count, out, [&](uint8_t bits) { return table[bits]; });
    }
    default:
      out[0] = load_float(from, view.dtype, 0);  // throws UNSUPPORTED
  }
}

}  // namespace galvani
