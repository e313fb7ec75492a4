// Softmax attention of many (sequence, layer) items in one call, with hooks, over keys given as lists of runs.
//
//   out[r, h] = Σ_j softmax_j( scale · q[r, h] · k[j, h/(H/G)] ) v[j, h/(H/G)]      GQA: H query heads, G KV heads
//
// q and out are float32 rows of H·D; keys and values float32 rows of D per KV head. A key with logical index i is
// visible to a row when low ≤ i ≤ limit: causal rows carry their own index as limit, bidirectional rows INT32_MAX, a
// sliding window of W keys has low = limit − W + 1.
//
// Accumulation: float32, keys in list order, one key after the other, measured from the row's exact maximum, so that
// the result depends neither on how the keys are cut into runs, nor on the batch, nor on threads, and removing keys is
// bit-equal to blocking them. A key that no row may see is never read; a key that only some rows may see must be
// finite. attention_reference.cc is the specification; attention.cc cuts the work into tiles; attention_kernel.h is the
// tile, compiled once per instruction set; attention_capture.cc reads finished tiles out. Hooks are per-run vectors of
// the tile, so the path without hooks is the same code. How to add one: ops/README.md.
#pragma once
#include <cstdint>

#include "core/parallel.h"
#include "ops/attention_hooks.h"

namespace galvani {

// Consecutive keys of uniform treatment. For KV head g the rows are k[g] + i·stride, v[g] + i·stride, i < count.
struct KeyRun {
  const float* const* k;  // (G) pointers to (count, D) rows
  const float* const* v;  // (G)
  int64_t stride;         // floats between rows
  int32_t count;
  int32_t index;    // logical index of the first key; the others follow
  int32_t segment;  // column of AttentionCapture::mass
};

// One query block against one key list. Rows of different items never interact.
struct AttentionItem {
  const float* q;        // (rows, H, D)
  int64_t q_stride;      // floats between rows
  float* out;            // (rows, H, D)
  int64_t out_stride;    // floats between rows
  const int32_t* limit;  // (rows) largest visible logical index
  int32_t rows;
  const KeyRun* runs;
  int32_t run_count;
  const ScoreEdits* edits = nullptr;          // null: none
  const AttentionCapture* capture = nullptr;  // (captures) null: none
  int32_t captures = 1;
  const int32_t* low = nullptr;           // (rows) smallest visible logical index; null: none
  const HeadEdits* head_edits = nullptr;  // null: none
};

struct AttentionShape {
  int32_t heads;     // H
  int32_t kv_heads;  // G, divides H
  int32_t head_dim;  // D
  float scale;       // usually D^-1/2
};

// Throws BAD_ARGUMENT unless the sizes are positive and G divides H.
void check(const AttentionShape& shape);

void attention(const AttentionShape& shape, const AttentionItem* items, int64_t count, ThreadPool& pool);

// The specification, float64 inside.
void attention_reference(const AttentionShape& shape, const AttentionItem* items, int64_t count);

}  // namespace galvani
