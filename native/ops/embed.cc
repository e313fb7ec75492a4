#include "ops/embed.h"

#include <cstring>
#include <string>

#include "core/status.h"

namespace galvani {
namespace {

void widen(float* out, const Weight& table, int64_t row) {
  const int64_t width = table.columns;
  const auto* bytes = static_cast<const unsigned char*>(table.data) + row * width * dtype_size(table.dtype);
  if (table.dtype == DType::kF32) {
    std::memcpy(out, bytes, width * sizeof(float));
  } else if (table.dtype == DType::kBF16) {
    for (int64_t i = 0; i < width; ++i) {
      uint16_t bits;
      std::memcpy(&bits, bytes + 2 * i, 2);
      out[i] = bf16_to_float(bits);
    }
  } else {
    for (int64_t i = 0; i < width; ++i) out[i] = load_float(bytes, table.dtype, i);
  }
}

}  // namespace

void embed_rows(float* out, int64_t ldo, const int32_t* ids, int64_t count, const Weight& table) {
  if (!is_float(table.dtype))
    throw Error(Code::kUnsupported,
                std::string("embed_rows: table of dtype ") + dtype_name(table.dtype) + "; expected a float dtype");
  for (int64_t i = 0; i < count; ++i)
    if (ids[i] < 0 || ids[i] >= table.rows)
      throw Error(Code::kBadArgument, "embed_rows: token id " + std::to_string(ids[i]) + " at position " +
                                          std::to_string(i) + " is outside the vocabulary [0, " +
                                          std::to_string(table.rows) + ")");
  for (int64_t i = 0; i < count; ++i) widen(out + i * ldo, table, ids[i]);
}

}  // namespace galvani
