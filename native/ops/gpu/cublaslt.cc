#include "ops/gpu/cublaslt.h"

#include <dlfcn.h>

#include <array>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "ops/gpu/cublaslt_facts.h"
#include "ops/gpu/launchers.h"
#include "ops/gpu/nvidia_library.h"
#include "ops/gpu/refuse.h"

namespace galvani::gpu::cublaslt {
namespace {

// ---- finding it -----------------------------------------------------------------------------------------------------

std::vector<std::string> candidates() {
  if (const char* path = std::getenv("GALVANI_CUBLASLT"); path && *path) return {path};
  return nvidia_library_paths("cublasLt", {"13", "12"}, "cublas");
}

struct Library {
  Functions f{};
  std::string where;  // path and version, or why there is none

  Library() {
    std::string last;
    for (const std::string& path : candidates()) {
      void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (!handle) {
        const char* why = dlerror();
        if (path.find('/') != std::string::npos) last = why ? why : path;
        continue;
      }
      if (const char* missing = f.load(handle)) {
        last = path + " has no " + missing;
        f = {};
        dlclose(handle);
        continue;
      }
      const size_t version = f.get_version();
      where = "cuBLASLt " + std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
              std::to_string(version % 100);
      Dl_info info{};
      if (dladdr(reinterpret_cast<void*>(f.get_version), &info) && info.dli_fname)
        where += std::string(" (") + info.dli_fname + ")";
      return;
    }
    where = "own kernel: cuBLASLt not found" + (last.empty() ? "" : " (" + last + ")");
  }
  bool loaded() const { return f.matmul != nullptr; }
  const char* name(int code) const {
    const char* text = f.get_status_name ? f.get_status_name(code) : nullptr;
    return text ? text : "unknown status";
  }
};

Library& library() {
  static Library instance;
  return instance;
}

// ---- one handle per device, one algorithm per shape -----------------------------------------------------------------

// m, n, k, strides, bias, float32 out, alignments.
using Shape = std::tuple<int, int, int, int64_t, int64_t, bool, bool, std::array<uint32_t, 4>>;
struct Choice {
  bool supported = false;
  Algorithm algorithm{};
  size_t workspace = 0;
};
struct Handle {
  void* handle = nullptr;
  std::string status;
  std::map<Shape, Choice> choices;
};
std::mutex mutex;

Handle& handle_of(int device) {  // under the mutex
  static std::map<int, Handle> handles;
  const auto [entry, fresh] = handles.try_emplace(device);
  Handle& out = entry->second;
  if (!fresh) return out;
  const Library& lib = library();
  out.status = lib.where;
  if (!lib.loaded()) return out;
  if (const int code = lib.f.create(&out.handle); code != 0) {
    out.handle = nullptr;
    out.status = "own kernel: " + lib.where + " does not start: " + lib.name(code);
  }
  return out;
}

// The largest power of two up to 256 that divides an address: what cuBLASLt may assume.
uint32_t alignment_of(const void* pointer) {
  const auto bits = reinterpret_cast<uintptr_t>(pointer) | 256;
  return static_cast<uint32_t>(bits & -bits);
}

// Descriptors of one product. cuBLASLt is column-major: our row-major out (m, n) is its (n, m), with A = weight
// transposed and B = in as they lie.
class Descriptors {
 public:
  Descriptors(const Functions& f, const GemmParams& p) : f_(f) {
    const int transpose = 1;
    const int32_t out_type = p.out ? kBfloat16 : kFloat32;
    check(f.desc_create(&product, kCompute32F, kFloat32));
    set(kTransA, &transpose, sizeof transpose);
    if (p.bias) {
      const int epilogue = kEpilogueBias;
      set(kEpilogue, &epilogue, sizeof epilogue);
      set(kBiasPointer, &p.bias, sizeof p.bias);
    }
    check(f.layout_create(&weight, kBfloat16, p.k, p.n, p.k));
    check(f.layout_create(&in, kBfloat16, p.k, p.m, p.in_stride));
    check(f.layout_create(&out, out_type, p.n, p.m, p.out_stride));
  }
  ~Descriptors() {
    if (product) f_.desc_destroy(product);
    for (void* layout : {weight, in, out})
      if (layout) f_.layout_destroy(layout);
  }
  Descriptors(const Descriptors&) = delete;
  Descriptors& operator=(const Descriptors&) = delete;

  void *product = nullptr, *weight = nullptr, *in = nullptr, *out = nullptr;
  int code = 0;  // first failure

 private:
  void check(int result) {
    if (code == 0) code = result;
  }
  void set(int attribute, const void* value, size_t bytes) {
    if (code == 0) check(f_.desc_set(product, attribute, value, bytes));
  }
  const Functions& f_;
};

Choice choose(const Library& lib, void* handle, const Descriptors& d, const std::array<uint32_t, 4>& alignments,
              uint64_t workspace) {
  Choice choice;
  void* preference = nullptr;
  if (lib.f.preference_create(&preference) != 0) return choice;
  bool good = lib.f.preference_set(preference, kMaxWorkspace, &workspace, sizeof workspace) == 0;
  for (int i = 0; i < 4; ++i)
    good = good && lib.f.preference_set(preference, kAlignmentA + i, &alignments[i], sizeof(uint32_t)) == 0;
  Heuristic found{};
  int count = 0;
  good = good && lib.f.heuristic(handle, d.product, d.weight, d.in, d.out, d.out, preference, 1, &found, &count) == 0;
  lib.f.preference_destroy(preference);
  if (good && count > 0 && found.state == 0) choice = {true, found.algorithm, found.workspace};
  return choice;
}

}  // namespace

bool available(int device) {
  const std::lock_guard lock(mutex);
  return handle_of(device).handle != nullptr;
}

const char* status(int device) {
  const std::lock_guard lock(mutex);
  return handle_of(device).status.c_str();
}

int gemm(const GemmParams& p, int device, void* workspace, void* stream) {
  if (p.bias && p.out) return kUnsupported;  // it takes biases of the output's type only, ours are float32
  const Library& lib = library();
  if (!lib.loaded()) return kUnsupported;
  const void* out = p.out ? static_cast<const void*>(p.out) : p.out_f32;
  const std::array<uint32_t, 4> alignments = {alignment_of(p.weight), alignment_of(p.in), alignment_of(out),
                                              alignment_of(out)};
  const Shape shape{p.m, p.n, p.k, p.in_stride, p.out_stride, p.bias != nullptr, p.out == nullptr, alignments};
  void* handle;
  Choice choice;
  const Descriptors d(lib.f, p);
  if (d.code != 0) return refuse("cuBLASLt descriptors: %s", lib.name(d.code));
  {
    const std::lock_guard lock(mutex);
    Handle& own = handle_of(device);
    if (!(handle = own.handle)) return kUnsupported;
    if (own.choices.size() > 4096) own.choices.clear();  // every length of a decode once: keep it bounded
    const auto [entry, fresh] = own.choices.try_emplace(shape);
    if (fresh) entry->second = choose(lib, handle, d, alignments, workspace ? kWorkspaceBytes : 0);
    choice = entry->second;
  }
  if (!choice.supported || (choice.workspace > 0 && !workspace)) return kUnsupported;
  const float one = 1.0f, zero = 0.0f;
  void* result = const_cast<void*>(out);
  const int code = lib.f.matmul(handle, d.product, &one, p.weight, d.weight, p.in, d.in, &zero, result, d.out, result,
                                d.out, &choice.algorithm, workspace, workspace ? kWorkspaceBytes : 0, stream);
  return code == 0 ? 0 : refuse("cuBLASLt: %s", lib.name(code));
}

}  // namespace galvani::gpu::cublaslt
