// One SIMD vocabulary at three widths, picked by the flags of the file that includes it: AVX-512, AVX2 + FMA + F16C, or
// the compiler's own 4-lane vectors. Kernels are written once against it (matmul_kernel.h, attention_kernel.h).
//
// Everything sits in an unnamed namespace and is inlined: an AVX body must never be the copy that the linker keeps for
// a portable caller. For the same reason kernels include no header with inline functions or templates of the library.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(__AVX2__)
// GCC 12 takes the deliberately undefined operands inside its own intrinsics for mistakes (PR 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#include "core/dtype.h"
#endif

#define GALVANI_INLINE inline __attribute__((always_inline))

namespace galvani {
namespace {

// bf16 is widened as the even places and the odd places of 2·kWidth stored values: one shift, one mask, where keeping
// the order would cost two lane-crossing expansions. split() brings float32 into the same order.
#if defined(__AVX512F__)

using Vec = __m512;
using IntVec = __m512i;
using Mask = __mmask16;
constexpr int kWidth = 16;
constexpr int kRegisters = 32;

GALVANI_INLINE Vec zero() { return _mm512_setzero_ps(); }
GALVANI_INLINE Vec set(float x) { return _mm512_set1_ps(x); }
GALVANI_INLINE Vec load(const void* p) { return _mm512_loadu_ps(p); }
GALVANI_INLINE void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
GALVANI_INLINE Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
GALVANI_INLINE Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
GALVANI_INLINE Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
GALVANI_INLINE Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
// b if either is NaN: a possible NaN goes second, to live on.
GALVANI_INLINE Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
GALVANI_INLINE Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
GALVANI_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }

GALVANI_INLINE IntVec load_int(const int32_t* p) { return _mm512_loadu_si512(p); }
GALVANI_INLINE Mask at_least(IntVec a, int32_t b) { return _mm512_cmpge_epi32_mask(a, _mm512_set1_epi32(b)); }
GALVANI_INLINE Mask greater(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
GALVANI_INLINE Mask equal(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
GALVANI_INLINE Vec select(Mask m, Vec yes, Vec no) { return _mm512_mask_blend_ps(m, no, yes); }

GALVANI_INLINE Vec round_even(Vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
// a · 2^n for whole n in [−126, 127].
GALVANI_INLINE Vec scale_by_power(Vec a, Vec n) { return _mm512_scalef_ps(a, n); }

GALVANI_INLINE Vec load_bf16_even(const void* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16));
}
GALVANI_INLINE Vec load_bf16_odd(const void* p) {
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), high));
}
GALVANI_INLINE Vec load_f16(const void* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
GALVANI_INLINE void split(Vec first, Vec second, Vec& even, Vec& odd) {
  const __m512i low = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  even = _mm512_permutex2var_ps(first, low, second);
  odd = _mm512_permutex2var_ps(first, _mm512_add_epi32(low, _mm512_set1_epi32(1)), second);
}

// The four sums over lanes, each by the same tree: i + (i+8), i + (i+4), i + (i+2), i + (i+1).
GALVANI_INLINE void sum4(Vec a, Vec b, Vec c, Vec d, float* out) {
  const Vec ab = add(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  const Vec cd = add(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
  const Vec all = add(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));  // a | b | c | d
  const __m128 va = _mm512_castps512_ps128(all), vb = _mm512_extractf32x4_ps(all, 1);
  const __m128 vc = _mm512_extractf32x4_ps(all, 2), vd = _mm512_extractf32x4_ps(all, 3);
  const __m128 pair_ab = _mm_add_ps(_mm_unpacklo_ps(va, vb), _mm_unpackhi_ps(va, vb));
  const __m128 pair_cd = _mm_add_ps(_mm_unpacklo_ps(vc, vd), _mm_unpackhi_ps(vc, vd));
  _mm_storeu_ps(out, _mm_add_ps(_mm_movelh_ps(pair_ab, pair_cd), _mm_movehl_ps(pair_cd, pair_ab)));
}

#elif defined(__AVX2__)

using Vec = __m256;
using IntVec = __m256i;
using Mask = __m256;
constexpr int kWidth = 8;
constexpr int kRegisters = 16;

GALVANI_INLINE Vec zero() { return _mm256_setzero_ps(); }
GALVANI_INLINE Vec set(float x) { return _mm256_set1_ps(x); }
GALVANI_INLINE Vec load(const void* p) { return _mm256_loadu_ps(static_cast<const float*>(p)); }
GALVANI_INLINE void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
GALVANI_INLINE Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
GALVANI_INLINE Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
GALVANI_INLINE Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
GALVANI_INLINE Vec div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
GALVANI_INLINE Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
GALVANI_INLINE Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
GALVANI_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }

GALVANI_INLINE IntVec load_int(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
GALVANI_INLINE Mask at_least(IntVec a, int32_t b) {
  const __m256i less = _mm256_cmpgt_epi32(_mm256_set1_epi32(b), a);
  return _mm256_castsi256_ps(_mm256_xor_si256(less, _mm256_set1_epi32(-1)));
}
GALVANI_INLINE Mask greater(Vec a, Vec b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
GALVANI_INLINE Mask equal(Vec a, Vec b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
GALVANI_INLINE Vec select(Mask m, Vec yes, Vec no) { return _mm256_blendv_ps(no, yes, m); }

GALVANI_INLINE Vec round_even(Vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
GALVANI_INLINE Vec scale_by_power(Vec a, Vec n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}

GALVANI_INLINE Vec load_bf16_even(const void* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)), 16));
}
GALVANI_INLINE Vec load_bf16_odd(const void* p) {
  const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  return _mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256(static_cast<const __m256i*>(p)), high));
}
GALVANI_INLINE Vec load_f16(const void* p) { return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p))); }
GALVANI_INLINE void split(Vec first, Vec second, Vec& even, Vec& odd) {
  const __m256i order = _mm256_set_epi32(7, 5, 3, 1, 6, 4, 2, 0);
  const Vec f = _mm256_permutevar8x32_ps(first, order), s = _mm256_permutevar8x32_ps(second, order);
  even = _mm256_permute2f128_ps(f, s, 0x20);
  odd = _mm256_permute2f128_ps(f, s, 0x31);
}

// The four sums over lanes, each by the same tree: i + (i+4), i + (i+2), i + (i+1).
GALVANI_INLINE void sum4(Vec a, Vec b, Vec c, Vec d, float* out) {
  const Vec ab = add(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));  // a | b
  const Vec cd = add(_mm256_permute2f128_ps(c, d, 0x20), _mm256_permute2f128_ps(c, d, 0x31));
  const Vec all = add(_mm256_unpacklo_ps(ab, cd), _mm256_unpackhi_ps(ab, cd));  // a c a c | b d b d
  const __m128 ac = _mm256_castps256_ps128(all), bd = _mm256_extractf128_ps(all, 1);
  const __m128 low = _mm_unpacklo_ps(ac, bd), high = _mm_unpackhi_ps(ac, bd);  // a b c d
  _mm_storeu_ps(out, _mm_add_ps(low, high));
}

#else

using Vec = float __attribute__((vector_size(16)));
using IntVec = int32_t __attribute__((vector_size(16)));
using Mask = IntVec;
constexpr int kWidth = 4;
constexpr int kRegisters = 16;

GALVANI_INLINE Vec zero() { return Vec{0.0f, 0.0f, 0.0f, 0.0f}; }
GALVANI_INLINE Vec set(float x) { return Vec{x, x, x, x}; }
GALVANI_INLINE Vec load(const void* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
GALVANI_INLINE void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }
GALVANI_INLINE Vec add(Vec a, Vec b) { return a + b; }
GALVANI_INLINE Vec sub(Vec a, Vec b) { return a - b; }
GALVANI_INLINE Vec mul(Vec a, Vec b) { return a * b; }
GALVANI_INLINE Vec div(Vec a, Vec b) { return a / b; }
GALVANI_INLINE Vec select(Mask m, Vec yes, Vec no) { return (Vec)((m & (IntVec)yes) | (~m & (IntVec)no)); }
GALVANI_INLINE Mask greater(Vec a, Vec b) { return a > b; }
GALVANI_INLINE Mask equal(Vec a, Vec b) { return a == b; }
GALVANI_INLINE Vec max(Vec a, Vec b) { return select(a > b, a, b); }
GALVANI_INLINE Vec min(Vec a, Vec b) { return select(a < b, a, b); }
GALVANI_INLINE Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }

GALVANI_INLINE IntVec load_int(const int32_t* p) {
  IntVec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
GALVANI_INLINE Mask at_least(IntVec a, int32_t b) { return a >= IntVec{b, b, b, b}; }

// |a| < 2^22: adding and taking away 1.5 · 2^23 leaves the nearest whole number, ties to even.
GALVANI_INLINE Vec round_even(Vec a) {
  const Vec magic = set(12582912.0f);
  return (a + magic) - magic;
}
GALVANI_INLINE Vec scale_by_power(Vec a, Vec n) {
  const IntVec exponent = __builtin_convertvector(n, IntVec) + IntVec{127, 127, 127, 127};
  return a * (Vec)(exponent << 23);
}

GALVANI_INLINE Vec load_bf16_even(const void* p) { return (Vec)((IntVec)load(p) << 16); }
GALVANI_INLINE Vec load_bf16_odd(const void* p) {
  const int32_t high = static_cast<int32_t>(0xffff0000u);
  return (Vec)((IntVec)load(p) & IntVec{high, high, high, high});
}
GALVANI_INLINE Vec load_f16(const void* p) {
  uint16_t bits[kWidth];
  std::memcpy(bits, p, sizeof bits);
  return Vec{f16_to_float(bits[0]), f16_to_float(bits[1]), f16_to_float(bits[2]), f16_to_float(bits[3])};
}
GALVANI_INLINE void split(Vec f, Vec s, Vec& even, Vec& odd) {
  even = Vec{f[0], f[2], s[0], s[2]};
  odd = Vec{f[1], f[3], s[1], s[3]};
}

// The four sums over lanes, each by the same tree: i + (i+2), i + (i+1).
GALVANI_INLINE void sum4(Vec a, Vec b, Vec c, Vec d, float* out) {
  out[0] = (a[0] + a[2]) + (a[1] + a[3]);
  out[1] = (b[0] + b[2]) + (b[1] + b[3]);
  out[2] = (c[0] + c[2]) + (c[1] + c[3]);
  out[3] = (d[0] + d[2]) + (d[1] + d[3]);
}

#endif

GALVANI_INLINE void prefetch(const void* p) { __builtin_prefetch(p, 0, 2); }

}  // namespace
}  // namespace galvani
