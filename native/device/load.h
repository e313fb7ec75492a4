// Finding the GPU: opens galvani_cuda.so beside this library (or where GALVANI_CUDA_LIBRARY says) and explains in one
// line what is missing. Nothing here needs a driver, a toolkit or a card.
#pragma once
#include <string>
#include <vector>

#include "device/backend.h"

namespace galvani {

struct GpuStatus {
  const gpu::Backend* backend = nullptr;  // null unless status is "ok"
  // "ok", "no-driver", "no-library", "bad-library", "no-device" or "error": closed, mirrored in lib/native.ts.
  std::string status;
  std::string reason;   // one line: what there is, or what is missing and what to do
  std::string library;  // path tried
  std::string targets;  // what the library was compiled for; "" if it did not load
  std::vector<gpu::DeviceInfo> devices;
};

// Opens this library and asks it. A library stays open for the life of the process.
GpuStatus probe_gpu(const std::string& library);

// The same for the library this process uses, once.
const GpuStatus& gpu_status();

// The backend in use. Throws UNSUPPORTED with the reason where there is none.
const gpu::Backend& gpu_backend();

}  // namespace galvani
