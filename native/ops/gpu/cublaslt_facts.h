// What we know of cuBLASLt's C interface, versions 12 and 13: numbers, one struct, function types. Its enums are ints.
// test/support/cublaslt-facts.cc compares all of it with cublasLt.h where that is installed.
#pragma once
#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace galvani::gpu::cublaslt {

// cudaDataType_t, cublasComputeType_t
inline constexpr int32_t kFloat32 = 0, kBfloat16 = 14, kCompute32F = 68;
// cublasLtMatmulDescAttributes_t
inline constexpr int kTransA = 3, kEpilogue = 7, kBiasPointer = 8;
// cublasLtEpilogue_t
inline constexpr int kEpilogueBias = 4;
// cublasLtMatmulPreferenceAttributes_t; B, C and D follow A
inline constexpr int kMaxWorkspace = 1, kAlignmentA = 5;

struct Algorithm {
  uint64_t data[8];
};
struct Heuristic {
  Algorithm algorithm;
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};

struct Functions {
  size_t (*get_version)();
  const char* (*get_status_name)(int);  // null in versions that lack it
  int (*create)(void** handle);
  int (*desc_create)(void** desc, int compute, int scale_type);
  int (*desc_destroy)(void* desc);
  int (*desc_set)(void* desc, int attribute, const void* value, size_t bytes);
  int (*layout_create)(void** layout, int type, uint64_t rows, uint64_t columns, int64_t leading);
  int (*layout_destroy)(void* layout);
  int (*preference_create)(void** preference);
  int (*preference_destroy)(void* preference);
  int (*preference_set)(void* preference, int attribute, const void* value, size_t bytes);
  int (*heuristic)(void* handle, void* desc, void* a, void* b, void* c, void* d, void* preference, int wanted,
                   Heuristic* results, int* count);
  int (*matmul)(void* handle, void* desc, const void* alpha, const void* a, void* a_layout, const void* b,
                void* b_layout, const void* beta, const void* c, void* c_layout, void* d, void* d_layout,
                const Algorithm* algorithm, void* workspace, size_t workspace_bytes, void* stream);

  // Null, or the first function the library lacks.
  const char* load(void* library) {
    const char* missing = nullptr;
    const auto get = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, name));
      if (!function && !missing) missing = name;
    };
    get(get_version, "cublasLtGetVersion");
    get(create, "cublasLtCreate");
    get(desc_create, "cublasLtMatmulDescCreate");
    get(desc_destroy, "cublasLtMatmulDescDestroy");
    get(desc_set, "cublasLtMatmulDescSetAttribute");
    get(layout_create, "cublasLtMatrixLayoutCreate");
    get(layout_destroy, "cublasLtMatrixLayoutDestroy");
    get(preference_create, "cublasLtMatmulPreferenceCreate");
    get(preference_destroy, "cublasLtMatmulPreferenceDestroy");
    get(preference_set, "cublasLtMatmulPreferenceSetAttribute");
    get(heuristic, "cublasLtMatmulAlgoGetHeuristic");
    get(matmul, "cublasLtMatmul");
    get_status_name = reinterpret_cast<decltype(get_status_name)>(dlsym(library, "cublasLtGetStatusName"));
    return missing;
  }
};

}  // namespace galvani::gpu::cublaslt
