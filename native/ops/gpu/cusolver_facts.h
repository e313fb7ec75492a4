// What we know of cuSOLVER's dense C interface, versions 11 (CUDA 12) and 12 (CUDA 13). Its enums are ints.
// test/support/cusolver-facts.cc compares all of it with cusolverDn.h where that is installed.
#pragma once
#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace galvani::gpu::cusolver {

inline constexpr int kFloat64 = 1;                       // cudaDataType_t
inline constexpr int kValuesOnly = 0, kWithVectors = 1;  // cusolverEigMode_t
inline constexpr int kLower = 0;                         // cublasFillMode_t

struct Functions {
  int (*get_version)(int* version);
  int (*create)(void** handle);
  int (*set_stream)(void* handle, void* stream);
  int (*create_params)(void** params);
  int (*buffer_size)(void* handle, void* params, int mode, int triangle, int64_t n, int a_type, const void* a,
                     int64_t lda, int w_type, const void* w, int compute_type, size_t* device_bytes,
                     size_t* host_bytes);
  // w ascending; vectors overwrite the columns of a. info: device memory; 0, or how many did not converge.
  int (*syevd)(void* handle, void* params, int mode, int triangle, int64_t n, int a_type, void* a, int64_t lda,
               int w_type, void* w, int compute_type, void* device_buffer, size_t device_bytes, void* host_buffer,
               size_t host_bytes, int* info);

  // Null, or the first function the library lacks.
  const char* load(void* library) {
    const char* missing = nullptr;
    const auto get = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, name));
      if (!function && !missing) missing = name;
    };
    get(get_version, "cusolverGetVersion");
    get(create, "cusolverDnCreate");
    get(set_stream, "cusolverDnSetStream");
    get(create_params, "cusolverDnCreateParams");
    get(buffer_size, "cusolverDnXsyevd_bufferSize");
    get(syevd, "cusolverDnXsyevd");
    return missing;
  }
};

}  // namespace galvani::gpu::cusolver
