#include "ops/embed.h"

#include <cstring>
#include <string>

#include "core/status.h"

namespace galvani {

void embed_rows(float* out, int64_t ldo, const int32_t* ids, int64_t count, const Weight& table) {
  if (!is_float(table.dtype))
    throw Error(Code::kUnsupported, std::string("embed_rows: table of dtype ") + dtype_name(table.dtype) + "; expected a float dtype");
  const int64_t width = table.columns;
  for (int64_t i = 0; i < count; ++i)
    if (ids[i] < 0 || ids[i] >= table.rows)
      throw Error(Code::kBadArgument, "embed_rows: token id " + std::to_string(ids[i]) + " at position " + std::to_string(i) +
                                          " is outside the vocabulary [0, " + std::to_string(table.rows) + ")");
  for (int64_t i = 0; i < count; ++i) {
    const int64_t first = ids[i] * width;
    for (int64_t c = 0; c < width; ++c) out[i * ldo + c] = load_float(table.data, table.dtype, first + c);
  }
}

}  // namespace galvani
