// cuBLASLt where it is installed: opened by dlopen and called through declarations of our own, so that building needs
// neither its header nor its 500 MB, and a machine without it still runs (gemm_mma.cu).
//
// Searched: $GALVANI_CUBLASLT (a file), the loader's path, $CUDA_HOME and /usr/local/cuda, then the folders that Python
// wheels install it to.
#pragma once
#include <cstddef>

#include "ops/gpu/dense_types.h"

namespace galvani::gpu::cublaslt {

inline constexpr size_t kWorkspaceBytes = size_t{32} << 20;

// Whether products on this device (the current one) go through it. Opens the library and makes the device's handle.
bool available(int device);
// One line: its version and path, or why it is not used. Valid for the life of the process.
const char* status(int device);

// The product on the current device. Returns 0, kUnsupported where cuBLASLt has nothing for these arguments (a bias with a
// bfloat16 output among them), or kRefused with a message. `workspace`: kWorkspaceBytes of device memory that only this stream uses, or null.
int gemm(const GemmParams& p, int device, void* workspace, void* stream);

}  // namespace galvani::gpu::cublaslt
