// Reads out of a finished tile what AttentionCapture wants of its rows.
#pragma once
#include "ops/attention.h"
#include "ops/attention_tile.h"

namespace galvani {

struct FinishedTile {
  const AttentionItem* item;
  const AttentionTile* tile;
  const int32_t* run_of;  // (span_count) place of each span's run in the item's list
  const float* mass;      // (segments, L) Σ weight per segment, or null
  int32_t heads;          // H
  int32_t used;           // lanes that are a row and head; the rest only fill the vectors
  int32_t lanes;          // L
  int32_t row[2 * kMaxWidth], head[2 * kMaxWidth];
};

void read_out(const FinishedTile& finished, const AttentionCapture& capture);

}  // namespace galvani
