#include "device/load.h"

#include <dlfcn.h>
#include <sys/stat.h>

#include <cstdlib>

#include "core/status.h"

namespace galvani {
namespace {

std::string default_library() {
  if (const char* path = std::getenv("GALVANI_CUDA_LIBRARY"); path && *path) return path;
  Dl_info here{};
  if (!dladdr(reinterpret_cast<const void*>(&probe_gpu), &here) || !here.dli_fname) return "galvani_cuda.so";
  const std::string path = here.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "galvani_cuda.so" : path.substr(0, slash + 1) + "galvani_cuda.so";
}

bool driver_present() {
  static void* const driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  return driver != nullptr;
}
constexpr const char* kNoDriver = "no NVIDIA driver on this machine (libcuda.so.1 not found)";

// The library's table, or null and why not.
const gpu::Backend* open_table(const std::string& path, GpuStatus& out) {
  const auto refuse = [&](const char* status, const std::string& reason) {
    out.status = status;
    out.reason = reason;
    return nullptr;
  };
  struct stat file;
  if (stat(path.c_str(), &file) != 0)
    return refuse("no-library", "the CUDA backend is not built: there is no " + path +
                                    " (building it needs nvcc: npx galvani-build --force)");
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    const char* why = dlerror();
    return refuse("bad-library", std::string("the CUDA backend does not load: ") + (why ? why : path.c_str()));
  }
  const auto get = reinterpret_cast<gpu::BackendGetter>(dlsym(handle, "galvani_backend"));
  if (!get) {
    dlclose(handle);
    return refuse("bad-library", path + " is not a galvani backend (it has no galvani_backend)");
  }
  const gpu::Backend* table = get(gpu::kBackendAbi);
  if (table && table->abi == gpu::kBackendAbi && table->size == sizeof(gpu::Backend)) return table;
  dlclose(handle);
  return refuse("bad-library", path + " is of another version of galvani (this one speaks ABI " +
                                     std::to_string(gpu::kBackendAbi) + "); rebuild: npx galvani-build --force");
}

std::string versions(const gpu::DeviceInfo& info) {
  const auto text = [](int32_t version) {
    return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
  };
  return "driver for CUDA " + text(info.driver_version) + ", runtime " + text(info.runtime_version);
}

std::string describe(const gpu::DeviceInfo& info) {
  std::string out = std::string(info.name) + " (compute " + std::to_string(info.compute_major) + "." +
                    std::to_string(info.compute_minor) + ", " + std::to_string(info.multiprocessors) + " SMs, " +
                    std::to_string(info.memory_bytes >> 30) + " GiB";
  if (info.driver_version > 0) out += ", " + versions(info);
  return out + "), GEMM: " + info.gemm;
}

}  // namespace

GpuStatus probe_gpu(const std::string& library) {
  GpuStatus out;
  out.library = library;
  const gpu::Backend* table = open_table(library, out);
  if (table) out.targets = table->targets;
  // A missing driver explains more than a missing library does: nobody can build their way out of it.
  const bool needs_driver = table ? std::string(table->name) == "cuda" : out.status == "no-library";
  if (needs_driver && !driver_present()) {
    out.status = "no-driver";
    out.reason = kNoDriver;
    return out;
  }
  if (!table) return out;

  int32_t count = 0;
  const auto failed = [&] {
    out.status = "error";
    out.reason = table->last_error();
    out.devices.clear();
    return out;
  };
  if (table->device_count(&count) != 0) return failed();
  for (int32_t device = 0; device < count; ++device) {
    out.devices.emplace_back();
    if (table->device_info(device, &out.devices.back()) != 0) return failed();
  }
  if (count == 0) {
    out.status = "no-device";
    out.reason = "the NVIDIA driver is there but shows no device (is CUDA_VISIBLE_DEVICES empty?)";
    return out;
  }
  if (out.devices[0].compute_major < 8 && std::string(table->name) == "cuda") {
    out.status = "no-device";
    out.reason = std::string(out.devices[0].name) + " has compute capability " +
                 std::to_string(out.devices[0].compute_major) + "." + std::to_string(out.devices[0].compute_minor) +
                 "; 8.0 or newer is needed (bfloat16 tensor cores)";
    return out;
  }
  out.status = "ok";
  out.backend = table;
  out.reason = describe(out.devices[0]);
  if (count > 1) out.reason += ", and " + std::to_string(count - 1) + " more";
  return out;
}

const GpuStatus& gpu_status() {
  static const GpuStatus status = probe_gpu(default_library());
  return status;
}

const gpu::Backend& gpu_backend() {
  const GpuStatus& status = gpu_status();
  if (!status.backend) throw Error(Code::kUnsupported, "no GPU: " + status.reason);
  return *status.backend;
}

}  // namespace galvani
