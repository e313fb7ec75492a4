// What host and device share about everything in a decoder layer that is not attention. Activations are bfloat16,
// sums float32; every pointer is device memory.
#pragma once
#include <cstdint>

#include "ops/gpu/attn_types.h"

namespace galvani::gpu {

// Edit of a row of the residual stream, applied after the addition and before the norm: row ← patch if present, then
// row ← scale · row + add.
struct ResidualEdit {
  const float* patch;  // (C) or null
  const float* add;    // (C) or null
  float scale;
  int32_t unused;
};

// residual ← residual + delta; edited; captured; normed ← weight · residual / sqrt(mean(residual²) + eps).
struct ResidualNormParams {
  int32_t rows, width;         // C, a multiple of 8
  bf16* residual;              // (rows, C), in place
  const bf16* delta;           // (rows, C) or null
  const float* weight;         // (C); null with normed null
  bf16* normed;                // (rows, C) or null: no norm wanted
  float eps;
  int32_t edit_count;
  const ResidualEdit* edits;
  const int32_t* row_edit;     // (rows) index into edits, < 0: none; null: none at all
  const int32_t* row_capture;  // (rows) row of `captured`, < 0: none; null: none at all
  float* captured;             // (capture rows, C) after the edit
};

// out = silu(gate) · up. gate_up (rows, 2F): gate, then up.
struct SwigluParams {
  int32_t rows, width;  // F, a multiple of 8
  const bf16* gate_up;
  bf16* out;            // (rows, F)
};

// out[i] = table[ids[i]]; an id outside [0, vocab) gives a row of NaN and sets *bad to 1 + its position.
struct EmbedParams {
  int32_t rows, width, vocab;  // C, a multiple of 8
  const bf16* table;           // (vocab, C)
  const int32_t* ids;          // (rows)
  bf16* out;                   // (rows, C)
  int32_t* bad;                // (1), zeroed by the caller
};

// What a row of logits is reduced to, without a second pass over memory by the caller. Any output may be null.
struct LogitsParams {
  int32_t rows, vocab;
  const float* logits;      // (rows, vocab) float32
  float* lse;               // (rows) ln Σ exp
  int32_t* argmax;          // (rows) lowest id of a tie
  float* max_logprob;       // (rows) log-probability of the argmax
  int32_t scored;           // ids per row
  int32_t top_k;            // sampling: 0 off
  const int32_t* score_ids; // (rows, scored)
  float* score_logprobs;    // (rows, scored)
  float temperature;        // sampling; 0: sampled = argmax
  float top_p;              // 1: off
  const float* uniform;     // (rows) in [0, 1); with `sampled`
  int32_t* sampled;         // (rows)
};

// out (m, n) = in (m, k) · weightᵀ, weight (n, k) as checkpoints store it; float32 accumulation.
struct GemmParams {
  int32_t m, n, k;     // n and k multiples of 8
  const bf16* in;      // rows in_stride elements apart
  const bf16* weight;  // (n, k)
  const float* bias;   // (n) or null
  bf16* out;           // one of out, out_f32
  float* out_f32;
  int64_t in_stride, out_stride;
};

}  // namespace galvani::gpu
