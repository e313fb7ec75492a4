// The inner loops of combine (combine.h) as one table per instruction set (combine_portable.cc, combine_avx2.cc,
// combine_avx512.cc), all from combine_loops.h. They work on tiles of a few thousand elements that lie in cache.
//
// Factors are float32 and sums float64: a product of two float32 is exact in float64, so a result has the same bits
// whether the compiler fuses multiply and add or not, on every instruction set.
#pragma once
#include <cstdint>

namespace galvani {

constexpr int kSumLanes = 16;  // independent sums per reduction, so that any vector width gives the same bits

struct CombineKernels {
  // Stored values to float32 and back (to nearest, ties to even; NaN stays NaN).
  void (*widen_bf16)(const uint16_t* from, int64_t n, float* to);
  void (*widen_f16)(const uint16_t* from, int64_t n, float* to);
  void (*narrow_bf16)(const float* from, int64_t n, uint16_t* to);
  void (*narrow_f16)(const float* from, int64_t n, uint16_t* to);

  void (*subtract)(const float* a, const float* b, int64_t n, float* out);  // out may be a
  void (*scale)(float* x, float factor, int64_t n);
  void (*add_scaled)(float factor, const float* x, double* y, int64_t n);  // y += factor · x
  // out = Σ factor[i] · in[i]
  void (*weighted_sum)(const float* const* in, const float* factor, int count, int64_t n, float* out);
  // lanes[i % 16] += a[i] · b[i]; lanes[i % 16] += |a[i]|
  void (*dot)(const float* a, const float* b, int64_t n, double* lanes);
  void (*sum_abs)(const float* a, int64_t n, double* lanes);

  // x[i] = 0 unless the draw of element begin + i falls below `keep`.
  void (*keep_random)(float* x, int64_t n, uint64_t key, int64_t begin, float keep);
  // x[i] = 0 unless its draw falls below keep[i].
  void (*keep_random_each)(float* x, int64_t n, uint64_t key, int64_t begin, const float* keep);

  // out = base + lambda · Σ d[i] (/ Σ weight where normalize) over the d[i], already weighted, whose sign is that of Σ
  // d (Σ d = 0 counts as +); the divisor is the sum of their weights.
  void (*consensus_sum)(const float* base, const float* const* d, const float* weight, int count, bool normalize,
                        float lambda, int64_t n, float* out);
  // SCE's fusion: sign consensus as above on the d[i], each entry weighted by its model's weight.
  void (*sce_sum)(const float* base, const float* const* d, const float* weight, int count, int64_t n, float* out);
  // Population variance over the count values of each element.
  void (*variance)(const float* const* d, int count, int64_t n, float* out);
  // RAM: entries beyond epsilon; alone × unique[i], shared averaged.
  void (*ram_sum)(const float* base, const float* const* d, const float* unique, int count, float epsilon, int64_t n,
                  float* out);
  // NearSwap: b within t of a, else a moved by t towards b.
  void (*nearswap)(const float* a, const float* b, float t, int64_t n, float* out);
};
const CombineKernels& combine_kernels();
extern const CombineKernels kCombinePortable, kCombineAvx2, kCombineAvx512;

}  // namespace galvani
