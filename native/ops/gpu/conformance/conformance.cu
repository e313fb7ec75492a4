// One kernel per instruction of the device layer, to learn what hardware really does. On a GPU its outputs are recorded
// (bench/gpu/check.sh → test/fixtures/gpu/*.json); compiled by g++ the same program is the emulator's answer, which
// test/native/gpu-conformance.test.ts compares with those records and with the PTX ISA's fragment tables.
//
//   conformance list                what there is: one JSON line per case
//   conformance record FOLDER       runs every case on its own inputs: NAME.in, NAME.out (raw words), failures to stderr
//   conformance run NAME            words from stdin to stdout
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "ops/gpu/conformance/inputs.h"
#include "ops/gpu/conformance/kernels.h"
#include "ops/gpu/tensor_map.cuh"

namespace galvani::gpu {
namespace {

using Kernel = void (*)(const uint32_t*, uint32_t*);
struct Case {
  const char* name;
  const char* instruction;
  const char* compare;  // how a replay compares: bits, or floats within …
  int out_words;
  bool hopper;
  Words (*input)(Random&);
  int (*launch)(const uint32_t* in, uint32_t* out);
};

constexpr size_t kShared = 32 * 1024;
template <Kernel kernel>
int launch(const uint32_t* in, uint32_t* out) {
  return DEV_LAUNCH(kernel, dev::Grid{1}, 128, kShared, nullptr, in, out);
}
int launch_tma(const uint32_t* in, uint32_t* out) {
  dev::TensorMap map;
  const int64_t size[3] = {kTensor[0], kTensor[1], kTensor[2]};
  const int64_t strides[2] = {2 * kTensor[0], 2 * kTensor[0] * kTensor[1]};
  const int32_t box[3] = {kBox[0], kBox[1], kBox[2]};
  const int status = make_tensor_map(&map, in + 4, size, strides, box);
  return status ? status : DEV_LAUNCH(conform_tma, dev::Grid{1}, 128, kShared, nullptr, in, out, map);
}

const Case kCases[] = {
    {"ldsm4", "ldmatrix.m8n8.x4.b16", "bits", 128, false, ldsm_input, launch<conform_ldsm4>},
    {"ldsm4t", "ldmatrix.m8n8.x4.trans.b16", "bits", 128, false, ldsm_input, launch<conform_ldsm4t>},
    {"mma", "mma.m16n8k16 bf16, small integers", "bits", 128, false, mma_input, launch<conform_mma>},
    {"mma_wide", "mma.m16n8k16 bf16, twelve binades", "sum 2^-20", 128, false, mma_wide_input, launch<conform_mma>},
    {"mma_f64", "mma.m8n8k4 f64, small integers", "bits", 128, false, mma_f64_input, launch<conform_mma_f64>},
    {"cp16", "cp.async.cg 16 bytes, zero fill", "bits", 512, false, cp16_input, launch<conform_cp16>},
    {"shuffle", "shfl.bfly, shfl.idx, vote.any", "bits", 256, false, shuffle_input, launch<conform_shuffle>},
    {"ex2", "ex2.approx.ftz.f32", "relative 2^-21", kValues, false, float_input, launch<conform_ex2>},
    {"lg2", "lg2.approx.ftz.f32", "absolute 2^-20", kValues, false, float_input, launch<conform_lg2>},
    {"rcp", "rcp.rn.f32", "bits", kValues, false, float_input, launch<conform_rcp>},
    {"pack", "cvt.rn.bf16x2.f32, cvt.rn.bf16.f32", "bits", 2 * kValues, false, float_input, launch<conform_pack>},
    {"unpack", "bf16x2 to two f32", "bits", 2 * kValues, false, word_input, launch<conform_unpack>},
    {"wgmma_ss_slice", "wgmma m64n128k16, both K-major, the third slice", "bits", 128 * 64, true,
     [](Random& r) { return wgmma_input(r, {64, 64, 16, 1024, 1, 0, 0, 0}, kTileA + kTileB); },
     launch<conform_wgmma_ss>},
    {"wgmma_ss_chain", "wgmma m64n128k16, both K-major, four slices onto d", "bits", 128 * 64, true,
     [](Random& r) { return wgmma_input(r, {0, 0, 16, 1024, 4, 32, 32, 1}, kTileA + kTileB); },
     launch<conform_wgmma_ss>},
    {"wgmma_rs_slice", "wgmma m64n128k16, A in registers, B MN-major, the second slice", "bits", 128 * 64, true,
     [](Random& r) { return wgmma_input(r, {0, 2048, kHalf, 1024, 1, 0, 0, 0}, 512 + kTileB); },
     launch<conform_wgmma_rs>},
    {"wgmma_rs_chain", "wgmma m64n128k16, A in registers, B MN-major, four slices onto d", "bits", 128 * 64, true,
     [](Random& r) { return wgmma_input(r, {0, 0, kHalf, 1024, 4, 0, 2048, 1}, 512 + kTileB); },
     launch<conform_wgmma_rs>},
    {"tma_inside", "cp.async.bulk.tensor.3d, 128-byte swizzle", "bits", kBoxWords, true,
     [](Random&) { return tma_input(64, 1, 1); }, launch_tma},
    {"tma_beyond", "the same, reaching past the tensor's end", "bits", kBoxWords, true,
     [](Random&) { return tma_input(96, 3, 2); }, launch_tma},
    {"tma_before", "the same, from before the tensor's start", "bits", kBoxWords, true,
     [](Random&) { return tma_input(-16, -1, -1); }, launch_tma},
};

// ---- memory, and the program ----------------------------------------------------------------------------------------

#ifdef __CUDACC__
constexpr const char* kWhere = "cuda";
bool device_is_hopper() {
  int major = 0, minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0);
  return major == 9 && minor == 0;
}
std::string run(const Case& c, const Words& in, Words& out) {
  uint32_t *from = nullptr, *to = nullptr;
  const auto bytes = [](const Words& w) { return 4 * w.size(); };
  int status = cudaMalloc(&from, bytes(in));
  if (!status) status = cudaMalloc(&to, bytes(out));
  if (!status) status = cudaMemcpy(from, in.data(), bytes(in), cudaMemcpyHostToDevice);
  if (!status) status = cudaMemcpy(to, out.data(), bytes(out), cudaMemcpyHostToDevice);
  if (!status) status = c.launch(from, to);
  if (!status) status = cudaDeviceSynchronize();
  if (!status) status = cudaMemcpy(out.data(), to, bytes(out), cudaMemcpyDeviceToHost);
  cudaFree(from);
  cudaFree(to);
  return status > 0 ? cudaGetErrorString(static_cast<cudaError_t>(status)) : status < 0 ? "no tensor map" : "";
}
#else
constexpr const char* kWhere = "emulated";
bool device_is_hopper() { return true; }
std::string run(const Case& c, const Words& in, Words& out) {
  if (const char* seed = std::getenv("GALVANI_SCHEDULE")) emu::set_schedule(std::strtoull(seed, nullptr, 10));
  // 256-byte aligned, as device memory is.
  const size_t words = (in.size() + 63) / 64 * 64;
  auto* memory = static_cast<uint32_t*>(std::aligned_alloc(256, 4 * (words + (out.size() + 63) / 64 * 64)));
  std::memcpy(memory, in.data(), 4 * in.size());
  std::memcpy(memory + words, out.data(), 4 * out.size());
  const int status = c.launch(memory, memory + words);
  std::memcpy(out.data(), memory + words, 4 * out.size());
  std::free(memory);
  return status ? emu::error() : "";
}
#endif

// Poisoned, so that a word nobody wrote is seen.
std::string run_case(const Case& c, const Words& in, Words& out) {
  if (c.hopper && !device_is_hopper()) return "needs compute capability 9.0";
  out.assign(static_cast<size_t>(c.out_words), 0xa5a5a5a5u);
  return run(c, in, out);
}
bool write_words(const std::string& path, const Words& words) {
  FILE* file = std::fopen(path.c_str(), "wb");
  const bool ok = file && std::fwrite(words.data(), 4, words.size(), file) == words.size();
  return file && std::fclose(file) == 0 && ok;
}

int list() {
  for (const Case& c : kCases)
    std::printf("{\"name\": \"%s\", \"instruction\": \"%s\", \"compare\": \"%s\", \"hopper\": %s, \"ran\": \"%s\"}\n", c.name,
                c.instruction, c.compare, c.hopper ? "true" : "false", kWhere);
  return 0;
}
int record(const std::string& folder) {
  int failed = 0;
  for (const Case& c : kCases) {
    Random random{2025};
    const Words in = c.input(random);
    Words out;
    std::string error = run_case(c, in, out);
    if (error.empty() && !(write_words(folder + "/" + c.name + ".in", in) && write_words(folder + "/" + c.name + ".out", out)))
      error = "cannot write to " + folder;
    if (!error.empty()) ++failed, std::fprintf(stderr, "%s: %s\n", c.name, error.c_str());
  }
  return failed ? 1 : 0;
}
int run_one(const std::string& name) {
  for (const Case& c : kCases) {
    if (name != c.name) continue;
    Random random{2025};
    Words in(c.input(random).size()), out;
    if (std::fread(in.data(), 4, in.size(), stdin) != in.size() || std::fgetc(stdin) != EOF) {
      std::fprintf(stderr, "%s: expected %zu words on stdin\n", c.name, in.size());
      return 2;
    }
    const std::string error = run_case(c, in, out);
    if (!error.empty()) return std::fprintf(stderr, "%s: %s\n", c.name, error.c_str()), 1;
    return std::fwrite(out.data(), 4, out.size(), stdout) == out.size() ? 0 : 1;
  }
  std::fprintf(stderr, "no case '%s'\n", name.c_str());
  return 2;
}

}  // namespace
}  // namespace galvani::gpu

int main(int argc, char** argv) {
  using namespace galvani::gpu;
  const std::string verb = argc > 1 ? argv[1] : "";
  if (verb == "list" && argc == 2) return list();
  if (verb == "record" && argc == 3) return record(argv[2]);
  if (verb == "run" && argc == 3) return run_one(argv[2]);
  std::fprintf(stderr, "usage: conformance list | record FOLDER | run NAME\n");
  return 2;
}
