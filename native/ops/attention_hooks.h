// What an intervention means inside attention, and what can be read out without ever storing the S×S pattern.
//
// Keys come in runs (attention.h); a run is uniform: one segment, one edit per (head, query class). In the order in
// which a row meets them:
//
//   score edit    s ← gamma · s + beta on the scaled natural-log score s of a key before softmax, or the key is removed
//                 (blocked): it contributes nothing to that row, as if it did not exist.
//   read-outs     describe the softmax over the scores so edited, and nothing that comes after it.
//   post          multiplies the key's probability after softmax; the others are not renormalised. Output only.
//   head edit     out ← scale · out + add, last: also on a row that sees no key, whose out was 0. Output only.
//
// The same words on a GPU: ops/gpu/attn_types.h.
#pragma once
#include <cstdint>

namespace galvani {

struct ScoreEdit {
  float gamma = 1.0f;  // ≥ 0
  float beta = 0.0f;   // natural-log units
  bool blocked = false;
  float post = 1.0f;  // ≥ 0; its keys' values must be finite even where it is 0
};

// Edits of one attention item: a table over (head class, row class, run). Class 0 of heads and rows is usually
// "unedited".
struct ScoreEdits {
  const uint8_t* head_class;  // (H)
  const uint8_t* row_class;   // (rows)
  int32_t row_classes;
  const ScoreEdit* table;  // [head class][row class][run]
  int32_t runs;

  const ScoreEdit& at(int64_t head, int64_t row, int64_t run) const {
    return table[(static_cast<int64_t>(head_class[head]) * row_classes + row_class[row]) * runs + run];
  }
};

// Zeroing, scaling and mean replacement of heads are values: (0, none), (a, none), (0, mean).
struct HeadEdits {
  const float* scale = nullptr;  // (H); null: 1
  const float* add = nullptr;    // (H, D); null: 0
};

// One read-out of an item; an item may have several, over different rows. Every pointer may be null. Written, not
// accumulated, except key_mass. A row that sees no key: masses, probabilities and entropy 0, lse −∞, top_index −1.
struct AttentionCapture {
  int32_t segments = 0;
  const int32_t* row = nullptr;  // (rows) row of the buffers below; < 0: not captured; null: the row itself
  float* mass = nullptr;         // (captured rows, H, segments) probability the row gives each segment
  float* entropy = nullptr;      // (captured rows, H) nats
  float* lse = nullptr;          // (captured rows, H) natural log
  // (H, key_span) += probability each key receives, summed over the captured rows in row order;
  // key k's column is its logical index (KeyRun::index).
  float* key_mass = nullptr;
  int64_t key_span = 0;
  float* pattern = nullptr;  // (captured rows, H, key_span) the probabilities by column, 0 where the row sees no key
  // The top_k keys of largest probability, descending, ties to the earlier key in list order. Visible keys only, even
  // those whose probability is 0 in float32; where there are fewer, −1 and 0. top_k 1 is the argmax.
  int32_t top_k = 0;
  int32_t* top_index = nullptr;  // (captured rows, H, top_k) logical indices
  float* top_weight = nullptr;   // (captured rows, H, top_k) probabilities; both or neither
};

}  // namespace galvani
