#include "ops/widen.h"

#include <array>
#include <cstring>

#include "ops/combine_kernels.h"

namespace galvani {
namespace {

template <typename Stored>
bool is_aligned(const std::byte* from) {
  return reinterpret_cast<uintptr_t>(from) % alignof(Stored) == 0;
}

// Loops of one type each, without a switch inside, so that they vectorise. memcpy: the bytes may lie anywhere.
template <typename Stored, typename Convert>
void convert(const std::byte* from, int64_t count, float* out, Convert&& one) {
  for (int64_t i = 0; i < count; ++i) {
    Stored stored;
    std::memcpy(&stored, from + i * static_cast<int64_t>(sizeof stored), sizeof stored);
    out[i] = one(stored);
  }
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
      if (is_aligned<uint16_t>(from)) return combine_kernels().widen_bf16(reinterpret_cast<const uint16_t*>(from), count, out);
      return convert<uint16_t>(from, count, out, bf16_to_float);
    case DType::kF16:
      if (is_aligned<uint16_t>(from)) return combine_kernels().widen_f16(reinterpret_cast<const uint16_t*>(from), count, out);
      return convert<uint16_t>(from, count, out, f16_to_float);
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
