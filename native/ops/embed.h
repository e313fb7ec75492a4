// Token embedding: gathers rows of a stored table and widens them to float32.
#pragma once
#include <cstdint>

#include "ops/matmul.h"

namespace galvani {

// out (count, C) float32; table.rows = V, table.columns = C. An id outside [0, V) throws BAD_ARGUMENT naming it.
void embed_rows(float* out, int64_t ldo, const int32_t* ids, int64_t count, const Weight& table);

}  // namespace galvani
