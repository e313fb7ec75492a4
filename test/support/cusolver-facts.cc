// Compiles only if our declarations of cuSOLVER (native/ops/gpu/cusolver_facts.h) agree with its own header.
#include <cusolverDn.h>

#include "ops/gpu/cusolver_facts.h"
#include "same-function.h"

namespace galvani::gpu::cusolver {

static_assert(kFloat64 == CUDA_R_64F && kLower == CUBLAS_FILL_MODE_LOWER && CUSOLVER_STATUS_SUCCESS == 0);
static_assert(kValuesOnly == CUSOLVER_EIG_MODE_NOVECTOR && kWithVectors == CUSOLVER_EIG_MODE_VECTOR);

constexpr Functions f{};
static_assert(same(cusolverGetVersion, f.get_version));
static_assert(same(cusolverDnCreate, f.create) && same(cusolverDnSetStream, f.set_stream));
static_assert(same(cusolverDnCreateParams, f.create_params));
static_assert(same(cusolverDnXsyevd_bufferSize, f.buffer_size) && same(cusolverDnXsyevd, f.syevd));

}  // namespace galvani::gpu::cusolver
