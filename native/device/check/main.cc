// gpu_check: random attention scenes on a backend, against float64 and against the CPU twin. Ends with
// "N passed, N failed", N being scenes; needs no Node.
//
//   gpu_check [--backend host | PATH.so] [--kernel attn_mma|attn_decode|attn_wgmma] [--seeds A..B] [--size small|real]
//             [--head-dims 64,128] [--scores N] [--again] [--seconds N] [--json FILE] [--verbose]
//
// Without --backend: the backend linked into the executable, if any. --again launches everything twice and wants the
// same bits. --scores bounds rows · heads · keys of a scene, else by size and kernel. --seconds ends the run between
// scenes once that much time has passed, and says where it stopped.
#include <dlfcn.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "core/status.h"
#include "device/check/host_backend.h"
#include "device/check/judge.h"

namespace galvani::gpu {
// Present where a backend is linked in (the emulated one).
extern "C" __attribute__((weak)) const Backend* galvani_backend(uint32_t abi);
}  // namespace galvani::gpu

namespace galvani::gpu::check {
namespace {

struct Arguments {
  std::string backend, json;
  SceneOptions scene;
  uint64_t first = 0, last = 99;
  bool again = false, verbose = false;
  double seconds = 1e9;
};

[[noreturn]] void usage(const std::string& why) {
  std::fprintf(stderr,
               "gpu_check: %s\nusage: gpu_check [--backend host|PATH.so] [--kernel attn_mma|attn_decode|attn_wgmma] "
               "[--seeds A..B] [--size small|real] [--head-dims 64,80,96,128] [--scores N] [--again] [--seconds N] "
               "[--json FILE] [--verbose]\n",
               why.c_str());
  std::exit(2);
}

int64_t number(const std::string& option, const std::string& value) {
  char* end = nullptr;
  const long long n = std::strtoll(value.c_str(), &end, 10);
  if (value.empty() || *end != '\0' || n < 0) usage(option + " expects a number, got '" + value + "'");
  return n;
}

Arguments parse(int argc, char** argv) {
  Arguments out;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    const auto value = [&]() -> std::string {
      if (i + 1 == argc) usage(option + " expects a value");
      return argv[++i];
    };
    if (option == "--backend") {
      out.backend = value();
    } else if (option == "--kernel") {
      const std::string name = value();
      for (int k = 0; k < kAttnKernels; ++k)
        if (name == attn_kernel_name(static_cast<AttnKernel>(k))) out.scene.kernel = static_cast<AttnKernel>(k);
      if (!out.scene.kernel) usage("no kernel '" + name + "'");
      if (out.scene.kernel == AttnKernel::kWgmma) out.scene.head_dims = {128};
    } else if (option == "--seeds") {
      const std::string range = value();
      const size_t dots = range.find("..");
      out.first = number(option, range.substr(0, dots));
      out.last = dots == std::string::npos ? out.first : number(option, range.substr(dots + 2));
    } else if (option == "--size") {
      const std::string size = value();
      if (size != "small" && size != "real") usage("--size is small or real, got '" + size + "'");
      out.scene.size = size == "real" ? Size::kReal : Size::kSmall;
    } else if (option == "--head-dims") {
      out.scene.head_dims.clear();
      const std::string list = value();
      for (size_t at = 0; at <= list.size();) {
        const size_t comma = std::min(list.find(',', at), list.size());
        const int64_t dim = number(option, list.substr(at, comma - at));
        if (dim != 64 && dim != 80 && dim != 96 && dim != 128) usage("head dimension " + std::to_string(dim));
        out.scene.head_dims.push_back(static_cast<int32_t>(dim));
        at = comma + 1;
      }
    } else if (option == "--scores") {
      out.scene.scores = number(option, value());
    } else if (option == "--seconds") {
      out.seconds = static_cast<double>(number(option, value()));
    } else if (option == "--json") {
      out.json = value();
    } else if (option == "--again") {
      out.again = true;
    } else if (option == "--verbose") {
      out.verbose = true;
    } else {
      usage("unknown option " + option);
    }
  }
  return out;
}

const Backend* open_backend(const std::string& path) {
  if (path == "host") return host_backend();
  BackendGetter get = path.empty() ? galvani_backend : nullptr;
  if (path.empty() && !get) usage("no backend is linked in; name one with --backend");
  if (!get) {
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) usage(dlerror());
    get = reinterpret_cast<BackendGetter>(dlsym(library, "galvani_backend"));
    if (!get) usage(path + " has no galvani_backend");
  }
  const Backend* backend = get(kBackendAbi);
  if (!backend || backend->abi != kBackendAbi || backend->size != sizeof(Backend))
    usage((path.empty() ? std::string("the linked backend") : path) + " does not serve ABI " +
          std::to_string(kBackendAbi));
  return backend;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out + "\"";
}

std::string finite(double value) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.4g", value);
  return std::isfinite(value) ? buffer : "null";
}

// Written anew after every scene, beside and renamed: a killed run leaves what it had.
void write_json(const std::string& path, const Backend& backend, const DeviceInfo& info, const std::string& scenes,
                const Verdicts& total, int64_t good, int64_t bad) {
  const std::string beside = path + ".part";
  FILE* file = std::fopen(beside.c_str(), "w");
  if (!file) usage("cannot write " + path);
  std::fprintf(file, "{\"backend\": %s, \"device\": %s, \"passed\": %lld, \"failed\": %lld,\n\"checks\": {",
               quoted(backend.name).c_str(), quoted(info.name).c_str(), static_cast<long long>(good),
               static_cast<long long>(bad));
  const char* comma = "\n ";
  for (const auto& [name, verdict] : total) {
    std::fprintf(file, "%s%s: {\"compared\": %lld, \"failed\": %lld, \"worst_over_tolerance\": %s}", comma,
                 quoted(name).c_str(), static_cast<long long>(verdict.compared), static_cast<long long>(verdict.failed),
                 finite(verdict.worst).c_str());
    comma = ",\n ";
  }
  std::fprintf(file, "},\n\"scenes\": [%s]}\n", scenes.c_str());
  if (std::fclose(file) != 0 || std::rename(beside.c_str(), path.c_str()) != 0) usage("cannot write " + path);
}

int run(const Arguments& arguments) {
  const Backend* backend = open_backend(arguments.backend);
  int32_t devices = 0;
  if (backend->device_count(&devices) != 0 || devices < 1) {
    std::printf("%s: no device: %s\n0 passed, 1 failed\n", backend->name, backend->last_error());
    return 1;
  }
  DeviceInfo info{};
  if (backend->device_info(0, &info) != 0 || backend->set_device(0) != 0) {
    std::printf("%s: %s\n0 passed, 1 failed\n", backend->name, backend->last_error());
    return 1;
  }
  std::printf("%s: %s, compute capability %d.%d, %d multiprocessors\n", backend->name, info.name, info.compute_major,
              info.compute_minor, info.multiprocessors);
  SceneOptions options = arguments.scene;
  options.wgmma = info.compute_major == 9 && info.compute_minor == 0;
  if (info.multiprocessors > 0) options.multiprocessors = info.multiprocessors;

  ThreadPool pool;
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  Verdicts total;
  std::string scenes;
  int64_t good = 0, bad = 0;
  for (uint64_t seed = arguments.first; seed <= arguments.last; ++seed) {
    if (elapsed() > arguments.seconds) {
      std::printf("stopped before seed %llu: %.0f seconds are over\n", static_cast<unsigned long long>(seed),
                  arguments.seconds);
      break;
    }
    const Scene scene = random_scene(seed, options);
    const double before = elapsed();
    const SceneRun result = run_scene(*backend, scene, arguments.again);
    const double device_seconds = elapsed() - before;
    const Verdicts verdicts = judge(scene, result, {}, pool);
    const bool ok = passed(verdicts);
    (ok ? good : bad) += 1;
    if (!ok || arguments.verbose)
      std::printf("%s %s | %s | %.2f s + %.2f s\n", ok ? "ok  " : "FAIL", scene.name().c_str(), result.kernels.c_str(),
                  device_seconds, elapsed() - before - device_seconds);
    std::string failures;
    for (const auto& [name, verdict] : verdicts) {
      if (verdict.failed > 0) {
        std::printf("     %s: %lld of %lld, worst %.3g of the tolerance; %s\n", name.c_str(),
                    static_cast<long long>(verdict.failed), static_cast<long long>(verdict.compared), verdict.worst,
                    verdict.where.c_str());
        failures += (failures.empty() ? "" : ", ") + quoted(name + ": " + verdict.where);
      }
      Verdict& sum = total[name];
      sum.compared += verdict.compared;
      sum.failed += verdict.failed;
      sum.worst = std::max(sum.worst, verdict.worst);
    }
    std::fflush(stdout);
    if (arguments.json.empty()) continue;
    scenes += (scenes.empty() ? "\n " : ",\n ") + std::string("{\"scene\": ") + quoted(scene.name()) +
              ", \"kernels\": " + quoted(result.kernels) + ", \"ok\": " + (ok ? "true" : "false") +
              ", \"failures\": [" + failures + "]}";
    write_json(arguments.json, *backend, info, scenes, total, good, bad);
  }
  std::printf("%-20s %14s %9s   largest error / tolerance\n", "check", "compared", "failed");
  for (const auto& [name, verdict] : total)
    std::printf("%-20s %14lld %9lld   %.3g\n", name.c_str(), static_cast<long long>(verdict.compared),
                static_cast<long long>(verdict.failed), verdict.worst);
  std::printf("%lld passed, %lld failed\n", static_cast<long long>(good), static_cast<long long>(bad));
  return bad == 0 && good > 0 ? 0 : 1;
}

}  // namespace
}  // namespace galvani::gpu::check

int main(int argc, char** argv) {
  try {
    return galvani::gpu::check::run(galvani::gpu::check::parse(argc, argv));
  } catch (const galvani::Error& error) {
    std::printf("gpu_check: %s\n0 passed, 1 failed\n", error.what());
    return 1;
  }
}
