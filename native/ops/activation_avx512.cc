#include "ops/activation_kernel.h"

namespace galvani {

void swiglu_row_avx512(float* y, const float* gate, const float* up, int64_t width) { swiglu_row(y, gate, up, width); }

}  // namespace galvani
