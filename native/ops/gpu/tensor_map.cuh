// Descriptors of global tensors for the copy engine (TMA). The driver encodes them; its entry point is asked for at run
// time, so that the shared object links to no driver. Under emulation a map is what it says.
#pragma once
#include "ops/gpu/dev.h"
#ifdef __CUDACC__
#include <cuda.h>
#endif

namespace galvani::gpu {

// A three-dimensional bfloat16 tensor, innermost dimension contiguous, copied in boxes of box[0] (64 elements: one
// swizzle row) × box[1] × box[2]. strides: bytes between neighbours in dimensions 1 and 2, multiples of 16. Elements
// outside the tensor are copied as zeros. Returns 0 or an error code.
#ifdef __CUDACC__
inline int make_tensor_map(dev::TensorMap* map, const void* base, const int64_t (&size)[3], const int64_t (&strides)[2],
                           const int32_t (&box)[3]) {
  static_assert(sizeof(dev::TensorMap) == sizeof(CUtensorMap) && alignof(dev::TensorMap) >= 64);
  using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                              const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                              CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  static const Encode encode = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found;
    const cudaError_t status =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found);
    return status == cudaSuccess && found == cudaDriverEntryPointSuccess ? reinterpret_cast<Encode>(entry) : nullptr;
  }();
  if (!encode) return static_cast<int>(cudaErrorNotSupported);
  const cuuint64_t sizes[3] = {static_cast<cuuint64_t>(size[0]), static_cast<cuuint64_t>(size[1]),
                               static_cast<cuuint64_t>(size[2])};
  const cuuint64_t bytes[2] = {static_cast<cuuint64_t>(strides[0]), static_cast<cuuint64_t>(strides[1])};
  const cuuint32_t boxes[3] = {static_cast<cuuint32_t>(box[0]), static_cast<cuuint32_t>(box[1]),
                               static_cast<cuuint32_t>(box[2])};
  const cuuint32_t every[3] = {1, 1, 1};
  CUtensorMap encoded;
  const CUresult status =
      encode(&encoded, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void*>(base), sizes, bytes, boxes, every,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) return static_cast<int>(cudaErrorInvalidValue);
  __builtin_memcpy(map, &encoded, sizeof *map);
  return 0;
}
#else
inline int make_tensor_map(dev::TensorMap* map, const void* base, const int64_t (&size)[3], const int64_t (&strides)[2],
                           const int32_t (&box)[3]) {
  if (strides[0] % 16 != 0 || strides[1] % 16 != 0 || reinterpret_cast<uintptr_t>(base) % 16 != 0 || box[0] != 64 ||
      box[1] > 256 || box[2] > 256)
    return 1;  // what the driver refuses too
  map->map = {static_cast<const unsigned char*>(base),
              {size[0], size[1], size[2]},
              {2, strides[0], strides[1]},
              {box[0], box[1], box[2]}};
  return 0;
}
#endif

}  // namespace galvani::gpu
