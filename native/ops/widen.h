// Stored elements as float32, whole stretches at a time. Exact, except F64, which is rounded.
#pragma once
#include <cstdint>

#include "core/tensor.h"

namespace galvani {

// Elements [begin, begin + count) of the view, which need not be aligned. UNSUPPORTED for integer dtypes.
void widen(const TensorView& view, int64_t begin, int64_t count, float* out);

}  // namespace galvani
