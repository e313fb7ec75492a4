#include "ops/gpu/cusolver.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

#include "ops/gpu/cusolver_facts.h"
#include "ops/gpu/launchers.h"
#include "ops/gpu/nvidia_library.h"
#include "ops/gpu/refuse.h"

namespace galvani::gpu::cusolver {
namespace {

constexpr const char* kRemedy = "; unset GALVANI_CUSOLVER for the CPU's routine";

template <size_t N>
void put(char (&to)[N], const std::string& text) {
  std::snprintf(to, N, "%s", text.c_str());
}

struct Library {
  Functions f{};
  EigenStatus status{};

  Library() {
    const char* wanted = std::getenv("GALVANI_CUSOLVER");
    if (!wanted || !*wanted) return;
    const bool search = std::strcmp(wanted, "auto") == 0;
    std::string why = "it is on no path of this machine";
    for (const std::string& path : search ? nvidia_library_paths("cusolver", {"12", "11"}, "cusolver")
                                          : std::vector<std::string>{wanted}) {
      void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (!handle) {
        const char* reason = dlerror();
        if (path.find('/') != std::string::npos) why = reason ? reason : path;
        continue;
      }
      int version = 0;
      if (const char* missing = f.load(handle)) {
        why = path + " has no " + missing;
      } else if (const int code = f.get_version(&version)) {
        why = path + " does not tell its version: status " + std::to_string(code);
      } else {
        put(status.name, "cuSOLVER " + std::to_string(version / 1000) + "." + std::to_string(version / 100 % 10) + "." +
                             std::to_string(version % 100));
        Dl_info info{};
        const bool known = dladdr(reinterpret_cast<void*>(f.syevd), &info) && info.dli_fname;
        put(status.path, known ? info.dli_fname : path.c_str());
        return;
      }
      f = {};
      dlclose(handle);
    }
    put(status.problem, "GALVANI_CUSOLVER=" + std::string(wanted) + ": no cuSOLVER: " + why + kRemedy);
  }
};

Library& library() {
  static Library instance;
  return instance;
}

// A handle may be used by one thread at a time.
std::mutex mutex;

struct Handle {
  void *solver = nullptr, *params = nullptr;
  int code = 0;
};

Handle& handle_of(int device) {  // under the mutex
  static std::map<int, Handle> handles;
  const auto [entry, fresh] = handles.try_emplace(device);
  Handle& out = entry->second;
  if (!fresh) return out;
  const Functions& f = library().f;
  out.code = f.create(&out.solver);
  if (out.code == 0) out.code = f.create_params(&out.params);
  return out;
}

int failed(const char* what, int code) {
  const EigenStatus& status = library().status;
  return refuse("%s (%s): %s: status %d%s", status.name, status.path, what, code, kRemedy);
}

// 0 and the device's handle, or why there is none.
int open(int device, Handle*& out) {
  const EigenStatus& status = library().status;
  if (*status.problem) return refuse("%s", status.problem);
  if (!*status.name) return kUnsupported;
  out = &handle_of(device);
  return out->code == 0 ? 0 : failed("it does not start", out->code);
}

}  // namespace

const EigenStatus& status() { return library().status; }

// Our row-major upper triangle is its column-major lower one, and its columns of vectors are our rows.

int workspace(EigenParams& p, int device) {
  const std::lock_guard lock(mutex);
  Handle* handle = nullptr;
  if (const int code = open(device, handle)) return code;
  size_t on_device = 0, on_host = 0;
  const int code = library().f.buffer_size(handle->solver, handle->params, p.vectors ? kWithVectors : kValuesOnly, kLower,
                                           p.k, kFloat64, p.matrix, p.k, kFloat64, p.values, kFloat64, &on_device,
                                           &on_host);
  if (code != 0) return failed("workspace", code);
  p.workspace_bytes = static_cast<int64_t>(on_device);
  p.host_workspace_bytes = static_cast<int64_t>(on_host);
  return 0;
}

int eigen(const EigenParams& p, int device, void* stream) {
  const std::lock_guard lock(mutex);
  Handle* handle = nullptr;
  if (const int code = open(device, handle)) return code;
  const Functions& f = library().f;
  if (const int code = f.set_stream(handle->solver, stream)) return failed("stream", code);
  const int code = f.syevd(handle->solver, handle->params, p.vectors ? kWithVectors : kValuesOnly, kLower, p.k, kFloat64,
                           p.matrix, p.k, kFloat64, p.values, kFloat64, p.workspace,
                           static_cast<size_t>(p.workspace_bytes), p.host_workspace,
                           static_cast<size_t>(p.host_workspace_bytes), p.info);
  return code == 0 ? 0 : failed("Xsyevd", code);
}

}  // namespace galvani::gpu::cusolver
