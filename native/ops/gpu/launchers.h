// The host side of every kernel: chooses a template, sizes shared memory, launches. They return 0, a CUDA error code,
// kUnsupported for a shape the kernel was not compiled for, or what refuse() returns; the backend's table turns codes
// into sentences.
#pragma once
#include "ops/gpu/attn_types.h"
#include "ops/gpu/dense_types.h"
#include "ops/gpu/weights_types.h"

namespace galvani::gpu {

inline constexpr int kUnsupported = -1;
inline constexpr int64_t kMaxGridY = 65535;

int attn_mma_launch(const AttnParams& p, void* stream);
int attn_decode_launch(const AttnParams& p, void* stream);
int attn_wgmma_launch(const AttnParams& p, void* stream);
int attn_combine_launch(const AttnParams& p, void* stream);
int attn_probe_launch(const ProbeParams& p, void* stream);
int topk_refine_launch(const AttnParams& p, void* stream);
int kv_append_launch(const KvAppendParams& p, void* stream);
int residual_norm_launch(const ResidualNormParams& p, void* stream);
int swiglu_launch(const SwigluParams& p, void* stream);
int embed_launch(const EmbedParams& p, void* stream);
int logits_launch(const LogitsParams& p, void* stream);
int gemm_mma_launch(const GemmParams& p, void* stream);
int weight_delta_launch(const WeightDeltaParams& p, void* stream);
int weight_mass_launch(const WeightMassParams& p, void* stream);
int weight_gram_launch(const WeightGramParams& p, void* stream);
int weight_dots_launch(const WeightDotsParams& p, void* stream);
int weight_sum_launch(const WeightSumParams& p, void* stream);

// Which instantiation a launch needs. Without statistics there are no masses, entropies and run maxima.
inline bool wants_statistics(const AttnParams& p) { return p.mass || p.entropy || p.run_max || p.part_segment; }
// Head edits alone need no table.
inline bool has_edges(const AttnParams& p) { return p.programs && p.has_edges; }

}  // namespace galvani::gpu
