#include "core/simd.h"

#include <cstdlib>
#include <cstring>

namespace galvani {
namespace {

Isa detect() {
  Isa best = Isa::kPortable;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
    best = Isa::kAvx2;
  if (best == Isa::kAvx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    best = Isa::kAvx512;
#endif
  if (const char* wanted = std::getenv("GALVANI_ISA")) {
    if (!std::strcmp(wanted, "portable")) return Isa::kPortable;
    if (!std::strcmp(wanted, "avx2") && best != Isa::kPortable) return Isa::kAvx2;
  }
  return best;
}

}  // namespace

Isa cpu_isa() {
  static const Isa isa = detect();
  return isa;
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kPortable: return "portable";
    case Isa::kAvx2: return "avx2";
    case Isa::kAvx512: return "avx512";
  }
  return "portable";
}

}  // namespace galvani
