// The CUDA back end: galvani_backend() of galvani_cuda.so. cudart is linked statically and opens libcuda itself at the
// first call, so this loads on a machine without a driver and answers with an error there.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

namespace galvani::gpu {
namespace {
const char* code_text(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }
}  // namespace
}  // namespace galvani::gpu

#include "device/entries.h"
#include "ops/gpu/cublaslt.h"

namespace galvani::gpu {
namespace {

// 1000 · major + 10 · minor, as cudaDriverGetVersion counts.
struct Versions {
  int driver = 0, runtime = 0;
  Versions() {
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
  }
};

int check(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return 0;
  cudaGetLastError();  // clears it: the next launch must not report this one's
  if (code == cudaErrorInsufficientDriver) {
    const Versions v;
    set_message("the NVIDIA driver is too old: it knows CUDA %d.%d, this build needs %d.%d", v.driver / 1000,
                v.driver % 1000 / 10, v.runtime / 1000, v.runtime % 1000 / 10);
  } else {
    set_message("%s: %s (%d)", what, cudaGetErrorString(code), static_cast<int>(code));
  }
  return static_cast<int>(code);
}

cudaStream_t stream_of(void* stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t event_of(void* event) { return static_cast<cudaEvent_t>(event); }

int device_count(int32_t* count) {
  *count = 0;
  int found = 0;
  const cudaError_t code = cudaGetDeviceCount(&found);
  if (code == cudaErrorNoDevice) {
    cudaGetLastError();
    return 0;
  }
  *count = found;
  return check(code, "counting devices");
}

int device_info(int32_t device, DeviceInfo* info) {
  std::memset(info, 0, sizeof *info);
  cudaDeviceProp properties;
  if (const int code = check(cudaGetDeviceProperties(&properties, device), "device properties")) return code;
  const Versions versions;
  std::snprintf(info->name, sizeof info->name, "%.127s", properties.name);
  info->compute_major = properties.major;
  info->compute_minor = properties.minor;
  info->multiprocessors = properties.multiProcessorCount;
  info->shared_bytes = static_cast<int32_t>(properties.sharedMemPerBlockOptin);
  info->memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  info->l2_bytes = properties.l2CacheSize;
  info->driver_version = versions.driver;
  info->runtime_version = versions.runtime;
  if (const int code = check(cudaSetDevice(device), "device_info")) return code;
  std::snprintf(info->gemm, sizeof info->gemm, "%s", cublaslt::status(device));
  return 0;
}

int set_device(int32_t device) { return check(cudaSetDevice(device), "set_device"); }

int alloc(void** pointer, int64_t bytes) {
  *pointer = nullptr;
  if (bytes < 0) return refuse("alloc: %lld bytes", static_cast<long long>(bytes));
  const cudaError_t code = cudaMalloc(pointer, bytes > 0 ? static_cast<size_t>(bytes) : 1);
  if (code != cudaErrorMemoryAllocation) return check(code, "alloc");
  cudaGetLastError();
  size_t left = 0, total = 0;
  cudaMemGetInfo(&left, &total);
  set_message("alloc: %lld bytes wanted, %zu of %zu free", static_cast<long long>(bytes), left, total);
  return code;
}

int release(void* pointer) { return check(cudaFree(pointer), "free"); }

int fill(void* pointer, int32_t byte, int64_t bytes, void* stream) {
  return check(cudaMemsetAsync(pointer, byte, static_cast<size_t>(bytes), stream_of(stream)), "fill");
}

int copy_with(void* to, const void* from, int64_t bytes, cudaMemcpyKind kind, void* stream, const char* what) {
  if (bytes < 0) return refuse("%s: %lld bytes", what, static_cast<long long>(bytes));
  return check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), kind, stream_of(stream)), what);
}
int copy_in(void* to, const void* from, int64_t bytes, void* stream) {
  return copy_with(to, from, bytes, cudaMemcpyHostToDevice, stream, "copy_in");
}
int copy_out(void* to, const void* from, int64_t bytes, void* stream) {
  return copy_with(to, from, bytes, cudaMemcpyDeviceToHost, stream, "copy_out");
}
int copy(void* to, const void* from, int64_t bytes, void* stream) {
  return copy_with(to, from, bytes, cudaMemcpyDeviceToDevice, stream, "copy");
}

int stream_create(void** stream) {
  // Non-blocking: work on the default stream does not order it.
  return check(cudaStreamCreateWithFlags(reinterpret_cast<cudaStream_t*>(stream), cudaStreamNonBlocking),
               "stream_create");
}
int stream_destroy(void* stream) { return check(cudaStreamDestroy(stream_of(stream)), "stream_destroy"); }
int sync(void* stream) { return check(cudaStreamSynchronize(stream_of(stream)), "sync"); }

int event_create(void** event) { return check(cudaEventCreate(reinterpret_cast<cudaEvent_t*>(event)), "event_create"); }
int event_destroy(void* event) { return check(cudaEventDestroy(event_of(event)), "event_destroy"); }
int event_record(void* event, void* stream) {
  return check(cudaEventRecord(event_of(event), stream_of(stream)), "event_record");
}
int event_elapsed_ms(float* ms, void* first, void* last) {
  if (const int code = check(cudaEventSynchronize(event_of(last)), "event_elapsed_ms")) return code;
  return check(cudaEventElapsedTime(ms, event_of(first), event_of(last)), "event_elapsed_ms");
}

// Scratch memory of cuBLASLt: products of different streams run at once, so each has its own. Null if there is no more.
void* workspace_of(int device, void* stream) {
  static std::mutex mutex;
  static std::map<std::pair<int, void*>, void*> workspaces;
  const std::lock_guard lock(mutex);
  const auto [entry, fresh] = workspaces.try_emplace({device, stream}, nullptr);
  if (fresh && cudaMalloc(&entry->second, cublaslt::kWorkspaceBytes) != cudaSuccess) {
    cudaGetLastError();
    entry->second = nullptr;
  }
  return entry->second;
}

int gemm(const GemmParams* params, void* stream) {
  int device = 0;
  if (const int code = check(cudaGetDevice(&device), "gemm")) return code;
  if (params->m > 0 && cublaslt::available(device)) {
    const int code = cublaslt::gemm(*params, device, workspace_of(device, stream), stream);
    if (code != kUnsupported) return finish("gemm", code);
  }
  return gemm_mma_entry(params, stream);
}

int eigen_workspace(EigenParams* params) {
  int device = 0;
  if (const int code = check(cudaGetDevice(&device), "eigen_workspace")) return code;
  return finish_eigen(cusolver::workspace(*params, device));
}
int eigen(const EigenParams* params, void* stream) {
  int device = 0;
  if (const int code = check(cudaGetDevice(&device), "eigen")) return code;
  return finish_eigen(cusolver::eigen(*params, device, stream));
}

const Backend& table() {
  static const Backend instance = [] {
    Backend t{};
    t.name = "cuda";
    t.targets = GALVANI_CUDA_TARGETS;
    t.device_count = device_count;
    t.device_info = device_info;
    t.set_device = set_device;
    t.alloc = alloc;
    t.free = release;
    t.fill = fill;
    t.copy_in = copy_in;
    t.copy_out = copy_out;
    t.copy = copy;
    t.stream_create = stream_create;
    t.stream_destroy = stream_destroy;
    t.sync = sync;
    t.event_create = event_create;
    t.event_destroy = event_destroy;
    t.event_record = event_record;
    t.event_elapsed_ms = event_elapsed_ms;
    add_kernels(t, gemm);
    t.eigen_workspace = eigen_workspace;
    t.eigen = eigen;
    return t;
  }();
  return instance;
}

}  // namespace

extern "C" const Backend* galvani_backend(uint32_t abi) { return abi == kBackendAbi ? &table() : nullptr; }

}  // namespace galvani::gpu
