// cuBLASLt is used where it works and explains itself where it does not. Descriptors need no GPU, so they are made here
// wherever the library is installed (GALVANI_CUBLASLT names one).
#include "ops/gpu/cublaslt.h"

#include <cstdlib>
#include <cstring>

#include "core/testing.h"
#include "ops/gpu/cublaslt_facts.h"
#include "ops/gpu/launchers.h"

int main() {
  using namespace galvani::gpu;
  const char* status = cublaslt::status(0);
  std::printf("%s\n", status);
  EXPECT(std::strstr(status, "cuBLASLt") && !std::strchr(status, '\n'), "one line about cuBLASLt");
  EXPECT(cublaslt::available(0) == (std::strncmp(status, "own kernel", 10) != 0), "the line says what is in use");

  bf16 memory[64] = {};
  float out[64] = {}, bias[8] = {};
  GemmParams p{8, 8, 8, memory, memory, bias, nullptr, out, 8, 8};
  if (!cublaslt::available(0)) EXPECT(cublaslt::gemm(p, 0, nullptr, nullptr) == kUnsupported, "without it: unsupported");
  p.out = memory;
  p.out_f32 = nullptr;
  EXPECT(cublaslt::gemm(p, 0, nullptr, nullptr) == kUnsupported, "a float32 bias with a bfloat16 output");

  const char* path = std::getenv("GALVANI_CUBLASLT");
  void* library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : nullptr;
  if (!library) {
    std::printf("descriptors not tried: GALVANI_CUBLASLT names no library\n");
    return galvani::testing::report();
  }
  cublaslt::Functions f{};
  EXPECT(f.load(library) == nullptr && f.get_version() >= 120000, "every function is there");
  void *desc = nullptr, *layout = nullptr, *preference = nullptr;
  const int epilogue = cublaslt::kEpilogueBias, transpose = 1;
  const uint64_t bytes = cublaslt::kWorkspaceBytes;
  const uint32_t alignment = 16;
  const void* bias_pointer = bias;
  EXPECT(f.desc_create(&desc, cublaslt::kCompute32F, cublaslt::kFloat32) == 0, "descriptor");
  EXPECT(f.desc_set(desc, cublaslt::kTransA, &transpose, sizeof transpose) == 0, "transposition");
  EXPECT(f.desc_set(desc, cublaslt::kEpilogue, &epilogue, sizeof epilogue) == 0, "epilogue");
  EXPECT(f.desc_set(desc, cublaslt::kBiasPointer, &bias_pointer, sizeof bias_pointer) == 0, "bias");
  EXPECT(f.layout_create(&layout, cublaslt::kBfloat16, 8, 8, 8) == 0, "layout");
  EXPECT(f.preference_create(&preference) == 0, "preference");
  EXPECT(f.preference_set(preference, cublaslt::kMaxWorkspace, &bytes, sizeof bytes) == 0, "workspace");
  for (int i = 0; i < 4; ++i)
    EXPECT(f.preference_set(preference, cublaslt::kAlignmentA + i, &alignment, sizeof alignment) == 0, "alignment");
  EXPECT(f.preference_destroy(preference) == 0 && f.layout_destroy(layout) == 0 && f.desc_destroy(desc) == 0, "freed");
  return galvani::testing::report();
}
