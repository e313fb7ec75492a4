// Rotary position embedding, the rotate-half form: (a, b) = (x[i], x[i + D/2]) → (a cos − b sin, b cos + a sin).
// The angle tables are built by the model (1-D, 2-D vision, M-RoPE); this op only rotates.
#pragma once
#include <cstdint>

#include "core/parallel.h"

namespace galvani {

// x (rows, heads, D) in place, row stride ldx floats; cos, sin (rows, D/2).
void rope_apply(float* x, int64_t ldx, int64_t rows, int64_t heads, int64_t head_dim, const float* cos,
                const float* sin, ThreadPool& pool);

// M-RoPE (Qwen2-VL, arXiv 2409.12191): the D/2 frequencies are split into sections (time, height, width); section s of
// a row turns by positions[s·rows + row] · theta^(−2i/D). cos, sin (rows, D/2). Angles in float32 as transformers does.
void mrope_table(float* cos, float* sin, const int32_t* positions, int64_t rows, int64_t head_dim,
                 const int32_t section[3], float theta);

// 2-D vision RoPE (Qwen2-VL): the first D/4 frequencies turn by the patch row, the next D/4 by the patch column;
// theta 10000. position_hw (rows, 2). cos, sin (rows, D/2).
void vision_rope_table(float* cos, float* sin, const int32_t* position_hw, int64_t rows, int64_t head_dim);

}  // namespace galvani
