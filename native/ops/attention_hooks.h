// What an intervention means inside attention, and what can be read out without ever storing the S×S pattern.
//
// Keys come in runs (attention.h); a run is uniform: one segment, one edit per (head, query class). An edit acts on the
// scaled natural-log score s of a key before softmax:   s ← gamma · s + beta,   or the key is removed (blocked).
// A run blocked for a row contributes nothing to that row, as if its keys did not exist.
#pragma once
#include <cstdint>

namespace galvani {

struct ScoreEdit {
  float gamma = 1.0f;  // ≥ 0
  float beta = 0.0f;   // natural-log units
  bool blocked = false;
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

// Read-outs of one attention item; every pointer may be null. Written, not accumulated, except key_mass.
struct AttentionCapture {
  int32_t segments = 0;
  const uint8_t* wanted = nullptr;  // (rows) non-zero where this row is captured; null = all rows
  float* mass = nullptr;            // (rows, H, segments) probability the row gives each segment
  float* entropy = nullptr;         // (rows, H) nats
  float* lse = nullptr;             // (rows, H) natural log
  // (H, key_span) += probability each key receives, summed over the captured rows in row order;
  // key k's column is its logical index (KeyRun::index).
  float* key_mass = nullptr;
  int64_t key_span = 0;
};

}  // namespace galvani
