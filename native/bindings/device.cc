// What this machine can do, for `galvani doctor` and for tests that say why they are skipped.
#include "bindings/addon.h"
#include "bindings/convert.h"
#include "bindings/task.h"
#include "core/parallel.h"
#include "core/simd.h"
#include "device/load.h"
#include "ops/lapack.h"

namespace galvani {
namespace {

std::vector<std::string> cpu_features() {
  std::vector<std::string> out;
#if defined(__x86_64__)
  __builtin_cpu_init();
#define GALVANI_FEATURE(gcc_name, name) \
  if (__builtin_cpu_supports(gcc_name)) out.push_back(name)
  GALVANI_FEATURE("avx2", "avx2");
  GALVANI_FEATURE("fma", "fma");
  GALVANI_FEATURE("f16c", "f16c");
  GALVANI_FEATURE("avx512f", "avx512f");
  GALVANI_FEATURE("avx512bw", "avx512bw");
  GALVANI_FEATURE("avx512dq", "avx512dq");
  GALVANI_FEATURE("avx512vl", "avx512vl");
  GALVANI_FEATURE("avx512bf16", "avx512_bf16");
  GALVANI_FEATURE("amx-tile", "amx_tile");
  GALVANI_FEATURE("amx-bf16", "amx_bf16");
#undef GALVANI_FEATURE
#endif
  return out;
}

// {isa, threads, features}: isa is the code path in use (GALVANI_ISA may lower it), features what the CPU reports.
Napi::Value cpu_info(const Napi::CallbackInfo& info) {
  Napi::Object out = Napi::Object::New(info.Env());
  out.Set("isa", isa_name(cpu_isa()));
  out.Set("threads", available_threads());
  out.Set("features", js_array(info.Env(), cpu_features()));
  return out;
}

// cudaStatus(library?) → {status, reason, library, targets, devices}; of the library in use, or of another one.
Napi::Value cuda_status(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const GpuStatus status = info.Length() > 0 && !info[0].IsUndefined()
                                 ? probe_gpu(to_string(info[0], "cudaStatus: library"))
                                 : gpu_status();
    Napi::Object out = Napi::Object::New(env);
    out.Set("status", status.status);
    out.Set("reason", status.reason);
    out.Set("library", status.library);
    out.Set("targets", status.targets);
    Napi::Array devices = Napi::Array::New(env, status.devices.size());
    for (size_t i = 0; i < status.devices.size(); ++i) {
      const gpu::DeviceInfo& from = status.devices[i];
      Napi::Object device = Napi::Object::New(env);
      device.Set("name", from.name);
      device.Set("computeCapability",
                 std::to_string(from.compute_major) + "." + std::to_string(from.compute_minor));
      device.Set("multiprocessors", from.multiprocessors);
      device.Set("memoryBytes", static_cast<double>(from.memory_bytes));
      device.Set("gemm", from.gemm);
      devices.Set(static_cast<uint32_t>(i), device);
    }
    out.Set("devices", devices);
    return out;
  });
}

// eigensolver('cpu' | 'cuda') → {name, path, problem}; name '' is the own routine, or of a device the CPU's.
Napi::Value eigensolver(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    Napi::Object out = Napi::Object::New(info.Env());
    const auto set = [&](const auto& status) {
      out.Set("name", status.name);
      out.Set("path", status.path);
      out.Set("problem", status.problem);
    };
    if (info.Length() == 0 || info[0].IsUndefined() || to_string(info[0], "eigensolver: device") == "cpu") {
      set(lapack::status());
    } else {
      gpu::EigenStatus status{};
      if (const gpu::Backend* backend = gpu_status().backend) backend->eigen_status(&status);
      set(status);
    }
    return out;
  });
}

}  // namespace

void init_device(Napi::Env env, Napi::Object exports) {
  exports.Set("cpuInfo", Napi::Function::New(env, cpu_info, "cpuInfo"));
  exports.Set("cudaStatus", Napi::Function::New(env, cuda_status, "cudaStatus"));
  exports.Set("eigensolver", Napi::Function::New(env, eigensolver, "eigensolver"));
}

}  // namespace galvani
