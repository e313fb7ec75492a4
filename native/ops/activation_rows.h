// What activation.cc hands to one instruction set: y = silu(gate) · up over one row; y may be gate.
// Error of silu: 3 ulp (without FMA |x| · 2^−24 relative more), and |x| · 2^−126 absolute where e^−x leaves
// float32.
#pragma once
#include <cstdint>

namespace galvani {

void swiglu_row_portable(float* y, const float* gate, const float* up, int64_t width);
void swiglu_row_avx2(float* y, const float* gate, const float* up, int64_t width);
void swiglu_row_avx512(float* y, const float* gate, const float* up, int64_t width);

}  // namespace galvani
