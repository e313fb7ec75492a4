// The kernels' entries of a Backend table, the same for every back end: launches, and turns a failure into a sentence
// that names the operation. Included by one source per back end, after it has defined
//   const char* code_text(int code)    what the device calls this error
#pragma once
#include "device/backend.h"
#include "ops/gpu/cusolver.h"
#include "ops/gpu/launchers.h"
#include "ops/gpu/refuse.h"

namespace galvani::gpu {
namespace {

int finish(const char* op, int code) {
  if (code > 0) set_message("%s: %s (%d)", op, code_text(code), code);
  if (code == kUnsupported) set_message("%s: not compiled for this shape", op);
  if (code == kRefused) set_message("%s: %s", op, last_message());
  return code;
}

#define GALVANI_ENTRY(op, Params) \
  int op##_entry(const Params* params, void* stream) { return finish(#op, op##_launch(*params, stream)); }
GALVANI_ENTRY(attn_mma, AttnParams)
GALVANI_ENTRY(attn_decode, AttnParams)
GALVANI_ENTRY(attn_wgmma, AttnParams)
GALVANI_ENTRY(attn_combine, AttnParams)
GALVANI_ENTRY(attn_probe, ProbeParams)
GALVANI_ENTRY(topk_refine, AttnParams)
GALVANI_ENTRY(kv_append, KvAppendParams)
GALVANI_ENTRY(residual_norm, ResidualNormParams)
GALVANI_ENTRY(swiglu, SwigluParams)
GALVANI_ENTRY(embed, EmbedParams)
GALVANI_ENTRY(logits, LogitsParams)
GALVANI_ENTRY(gemm_mma, GemmParams)
GALVANI_ENTRY(weight_delta, WeightDeltaParams)
GALVANI_ENTRY(weight_mass, WeightMassParams)
GALVANI_ENTRY(weight_gram, WeightGramParams)
GALVANI_ENTRY(weight_dots, WeightDotsParams)
GALVANI_ENTRY(weight_sum, WeightSumParams)
#undef GALVANI_ENTRY

int eigen_status(EigenStatus* status) {
  *status = cusolver::status();
  return 0;
}
int finish_eigen(int code) {
  if (code == kUnsupported) set_message("eigen: no library was asked for (GALVANI_CUSOLVER)");
  return code;
}

// Fills the part of the table that every back end has; `gemm` is the fastest it offers.
void add_kernels(Backend& table, int (*gemm)(const GemmParams*, void*)) {
  table.abi = kBackendAbi;
  table.size = sizeof(Backend);
  table.last_error = last_message;
  table.attn_mma = attn_mma_entry;
  table.attn_decode = attn_decode_entry;
  table.attn_wgmma = attn_wgmma_entry;
  table.attn_combine = attn_combine_entry;
  table.attn_probe = attn_probe_entry;
  table.topk_refine = topk_refine_entry;
  table.kv_append = kv_append_entry;
  table.residual_norm = residual_norm_entry;
  table.swiglu = swiglu_entry;
  table.embed = embed_entry;
  table.logits = logits_entry;
  table.gemm = gemm;
  table.gemm_own = gemm_mma_entry;
  table.weight_delta = weight_delta_entry;
  table.weight_mass = weight_mass_entry;
  table.weight_gram = weight_gram_entry;
  table.weight_dots = weight_dots_entry;
  table.weight_sum = weight_sum_entry;
  table.eigen_status = eigen_status;
}

}  // namespace
}  // namespace galvani::gpu
