// Eight lanes in GCC's vector types, the same for every instruction set, for the inner loops of delta_sums.
// Everything here has internal linkage: two copies of one inline function with different flags would be merged.
#pragma once
#include <cstdint>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#pragma GCC diagnostic ignored "-Wpsabi"  // 32-byte vectors in registers or not: these functions are inlined or local

namespace galvani {
namespace {

constexpr int kLanes = 8;
constexpr int64_t kTile = 1024;  // entries worked on at a time: every version of them, and what is derived, lie in L1

typedef float F8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef double D4 __attribute__((vector_size(32), aligned(8), may_alias));
typedef uint32_t U8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t I8 __attribute__((vector_size(32)));
typedef uint16_t H8 __attribute__((vector_size(16), aligned(2), may_alias));
typedef uint64_t Q4 __attribute__((vector_size(32), aligned(8), may_alias));

inline F8 floats(const float* from) { return *reinterpret_cast<const F8*>(from); }
inline U8 bits(const float* from) { return *reinterpret_cast<const U8*>(from); }
// Of bf16 as stored: those of the float32 it widens to.
inline U8 bits(const uint16_t* from) { return __builtin_convertvector(*reinterpret_cast<const H8*>(from), U8) << 16; }
inline F8 floats(const uint16_t* from) { return reinterpret_cast<F8>(bits(from)); }
inline D4 low(F8 v) { return __builtin_convertvector(__builtin_shufflevector(v, v, 0, 1, 2, 3), D4); }
inline D4 high(F8 v) { return __builtin_convertvector(__builtin_shufflevector(v, v, 4, 5, 6, 7), D4); }
inline Q4 low(U8 v) { return __builtin_convertvector(__builtin_shufflevector(v, v, 0, 1, 2, 3), Q4); }
inline Q4 high(U8 v) { return __builtin_convertvector(__builtin_shufflevector(v, v, 4, 5, 6, 7), Q4); }
inline D4 load(const double* from) { return *reinterpret_cast<const D4*>(from); }
inline void store(double* to, D4 v) { *reinterpret_cast<D4*>(to) = v; }
inline U8 load(const uint32_t* from) { return *reinterpret_cast<const U8*>(from); }
inline void store(uint32_t* to, U8 v) { *reinterpret_cast<U8*>(to) = v; }
inline Q4 load(const uint64_t* from) { return *reinterpret_cast<const Q4*>(from); }
inline void store(uint64_t* to, Q4 v) { *reinterpret_cast<Q4*>(to) = v; }

}  // namespace
}  // namespace galvani
