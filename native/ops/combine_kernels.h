// The inner loops of combine (combine.h) as one table per instruction set (combine_portable.cc, combine_avx2.cc,
// combine_avx512.cc), all from combine_loops.h. They work on tiles of a few thousand elements that lie in cache.
//
// Inputs are float32; factors, differences, products and sums float64, rounded once, at the end: where terms cancel, a
// factor or a difference rounded to float32 would be all that is left. An entry a method leaves out of W_i is set to
// the base's, so that its difference is 0 and no list of differences is held.
//
// The same bits on every instruction set: loops are vectorised over elements, reductions have fixed lanes, and these
// files are compiled without fusing multiply and add (CMakeLists.txt).
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

  void (*add_scaled)(double factor, const float* x, double* y, int64_t n);  // y += factor · x
  // out = Σ factor[i] · in[i]
  void (*weighted_sum)(const float* const* in, const double* factor, int count, int64_t n, float* out);
  // lanes[i % 16] += a[i] · b[i]; … (a − base)[i] · (b − base)[i]; … |a − base|[i]
  void (*dot)(const float* a, const float* b, int64_t n, double* lanes);
  void (*dot_differences)(const float* a, const float* b, const float* base, int64_t n, double* lanes);
  void (*sum_abs_difference)(const float* a, const float* base, int64_t n, double* lanes);

  // x[i] = base[i] unless the draw of element begin + i falls below `keep`.
  void (*keep_random)(const float* base, float* x, int64_t n, uint64_t key, int64_t begin, float keep);
  // x[i] = base[i] unless its draw falls below keep[i].
  void (*keep_random_each)(const float* base, float* x, int64_t n, uint64_t key, int64_t begin, const float* keep);

  // out = base + lambda · Σ d[i] (/ Σ weight where normalize) over the d[i] = factor[i] · (x[i] − base) whose sign is
  // that of Σ d (Σ d = 0 counts as +); the divisor is the sum of their weights.
  void (*consensus_sum)(const float* base, const float* const* x, const double* factor, const double* weight, int count,
                        bool normalize, double lambda, int64_t n, float* out);
  // SCE's fusion: sign consensus as above on the x[i] − base, each entry weighted by its model's weight.
  void (*sce_sum)(const float* base, const float* const* x, const double* weight, int count, int64_t n, float* out);
  // Population variance over the count values of each element.
  void (*variance)(const float* const* x, int count, int64_t n, float* out);
  // RAM: entries beyond epsilon of the base; alone × unique[i], shared averaged.
  void (*ram_sum)(const float* base, const float* const* x, const double* unique, int count, double epsilon, int64_t n,
                  float* out);
  // NearSwap: b within t of a, else a moved by t towards b.
  void (*nearswap)(const float* a, const float* b, double t, int64_t n, float* out);
};
const CombineKernels& combine_kernels();
extern const CombineKernels kCombinePortable, kCombineAvx2, kCombineAvx512;

}  // namespace galvani
