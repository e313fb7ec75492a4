// What a device offers: the C table through which galvani_cuda.so (and its emulated twin in the tests) is reached.
//
// A separate shared object behind a versioned table, so that the addon loads on machines without a driver and a broken
// CUDA toolkit cannot break the CPU build. Functions return 0, or a non-zero code and leave a sentence in last_error
// (per thread). Pointers inside parameter structs are device memory; the structs themselves are host memory, read
// before the call returns. A stream is opaque; null is the default stream. Launches and fill are asynchronous; copy_in
// and copy_out of pageable memory may wait.
#pragma once
#include <cstdint>

#include "ops/gpu/attn_types.h"
#include "ops/gpu/dense_types.h"
#include "ops/gpu/weights_types.h"

namespace galvani::gpu {

inline constexpr uint32_t kBackendAbi = 3;

struct DeviceInfo {
  char name[128];
  int32_t compute_major, compute_minor;
  int32_t multiprocessors;
  int32_t shared_bytes;  // most dynamic shared memory of one block
  int64_t memory_bytes;
  int64_t l2_bytes;
  int32_t driver_version, runtime_version;  // 1000 · major + 10 · minor
  char gemm[128];                           // which matrix multiply is in use and why
};

struct Backend {
  uint32_t abi;         // kBackendAbi
  uint32_t size;        // sizeof(Backend)
  const char* name;     // "cuda" or "emulated"
  const char* targets;  // architectures it was compiled for
  const char* (*last_error)();

  int (*device_count)(int32_t* count);
  int (*device_info)(int32_t device, DeviceInfo* info);
  int (*set_device)(int32_t device);

  int (*alloc)(void** pointer, int64_t bytes);  // 256-byte aligned, content undefined
  int (*free)(void* pointer);
  int (*fill)(void* pointer, int32_t byte, int64_t bytes, void* stream);
  int (*copy_in)(void* to, const void* from, int64_t bytes, void* stream);   // host → device
  int (*copy_out)(void* to, const void* from, int64_t bytes, void* stream);  // device → host
  int (*copy)(void* to, const void* from, int64_t bytes, void* stream);      // device → device
  int (*stream_create)(void** stream);
  int (*stream_destroy)(void* stream);
  int (*sync)(void* stream);
  int (*event_create)(void** event);
  int (*event_destroy)(void* event);
  int (*event_record)(void* event, void* stream);
  int (*event_elapsed_ms)(float* ms, void* first, void* last);  // waits for `last`

  // Attention (attn_types.h).
  int (*attn_mma)(const AttnParams*, void* stream);
  int (*attn_decode)(const AttnParams*, void* stream);
  int (*attn_wgmma)(const AttnParams*, void* stream);  // head_dim 128, compute capability 9.0 only
  int (*attn_combine)(const AttnParams*, void* stream);
  int (*attn_probe)(const ProbeParams*, void* stream);
  int (*topk_refine)(const AttnParams*, void* stream);
  int (*kv_append)(const KvAppendParams*, void* stream);

  // The rest of a decoder layer (dense_types.h).
  int (*residual_norm)(const ResidualNormParams*, void* stream);
  int (*swiglu)(const SwigluParams*, void* stream);
  int (*embed)(const EmbedParams*, void* stream);
  int (*logits)(const LogitsParams*, void* stream);
  int (*gemm)(const GemmParams*, void* stream);      // the fastest there is
  int (*gemm_own)(const GemmParams*, void* stream);  // our own kernel, whatever else there is

  // Comparing and merging weights (weights_types.h).
  int (*weight_delta)(const WeightDeltaParams*, void* stream);
  int (*weight_mass)(const WeightMassParams*, void* stream);
  int (*weight_gram)(const WeightGramParams*, void* stream);
  int (*weight_dots)(const WeightDotsParams*, void* stream);
  int (*weight_sum)(const WeightSumParams*, void* stream);
  int (*eigen_status)(EigenStatus* status);
  int (*eigen_workspace)(EigenParams* params);  // fills in both numbers of bytes
  int (*eigen)(const EigenParams*, void* stream);
};

// The one symbol of the shared object. Null when it cannot serve this ABI.
extern "C" __attribute__((visibility("default"))) const Backend* galvani_backend(uint32_t abi);
using BackendGetter = const Backend* (*)(uint32_t abi);

}  // namespace galvani::gpu
