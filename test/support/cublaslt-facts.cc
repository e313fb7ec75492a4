// Compiles only if our declarations of cuBLASLt (native/ops/gpu/cublaslt_facts.h) agree with its own header.
#include <cublasLt.h>

#include <cstddef>

#include "ops/gpu/cublaslt_facts.h"
#include "same-function.h"

namespace galvani::gpu::cublaslt {

static_assert(kFloat32 == CUDA_R_32F && kBfloat16 == CUDA_R_16BF && kCompute32F == CUBLAS_COMPUTE_32F);
static_assert(kTransA == CUBLASLT_MATMUL_DESC_TRANSA && kEpilogue == CUBLASLT_MATMUL_DESC_EPILOGUE);
static_assert(kBiasPointer == CUBLASLT_MATMUL_DESC_BIAS_POINTER && kEpilogueBias == CUBLASLT_EPILOGUE_BIAS);
static_assert(CUBLAS_OP_T == 1 && CUBLAS_STATUS_SUCCESS == 0);
static_assert(kMaxWorkspace == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
static_assert(kAlignmentA + 0 == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
static_assert(kAlignmentA + 1 == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
static_assert(kAlignmentA + 2 == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
static_assert(kAlignmentA + 3 == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);

static_assert(sizeof(Algorithm) == sizeof(cublasLtMatmulAlgo_t));
static_assert(sizeof(Heuristic) == sizeof(cublasLtMatmulHeuristicResult_t));
static_assert(offsetof(Heuristic, algorithm) == offsetof(cublasLtMatmulHeuristicResult_t, algo));
static_assert(offsetof(Heuristic, workspace) == offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
static_assert(offsetof(Heuristic, state) == offsetof(cublasLtMatmulHeuristicResult_t, state));

constexpr Functions f{};
static_assert(same(cublasLtGetVersion, f.get_version) && same(cublasLtGetStatusName, f.get_status_name));
static_assert(same(cublasLtCreate, f.create));
static_assert(same(cublasLtMatmulDescCreate, f.desc_create) && same(cublasLtMatmulDescDestroy, f.desc_destroy));
static_assert(same(cublasLtMatmulDescSetAttribute, f.desc_set));
static_assert(same(cublasLtMatrixLayoutCreate, f.layout_create) && same(cublasLtMatrixLayoutDestroy, f.layout_destroy));
static_assert(same(cublasLtMatmulPreferenceCreate, f.preference_create));
static_assert(same(cublasLtMatmulPreferenceDestroy, f.preference_destroy));
static_assert(same(cublasLtMatmulPreferenceSetAttribute, f.preference_set));
static_assert(same(cublasLtMatmulAlgoGetHeuristic, f.heuristic) && same(cublasLtMatmul, f.matmul));

}  // namespace galvani::gpu::cublaslt
