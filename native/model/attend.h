// Attention of all blocks of a layer pass in one call: interventions at attn_logits and pattern become tables of edits,
// read-outs become segments of the keys, and what was read goes to the captures.
#pragma once
#include "model/decoder.h"

namespace galvani {

// q (R, H·D) → z (R, H·D), for the full rows of every block.
void attend(const DecoderConfig& config, const KvArena& arena, const LayerInput& in, const float* q, float* z,
            ThreadPool& pool);

}  // namespace galvani
