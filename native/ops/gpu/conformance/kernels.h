// The kernels of conformance.cu: each reads `in`, does one thing, writes `out`, by one block of 128 threads. Layouts are
// left raw, their meaning is the reader's business.
#pragma once
#include "ops/gpu/dev.h"

namespace galvani::gpu {

// ---- warp instructions: one warp -----------------------------------------------------------------------------------

DEV_FN void fill_shared(unsigned char* to, const uint32_t* from, int words) {
  for (int i = dev::tid(); i < words / 4; i += 128)
    dev::st16(to + 16 * i, dev::ld16(reinterpret_cast<const unsigned char*>(from) + 16 * i));
}
// Plain stores that the tensor cores or the copy engine read next.
[[maybe_unused]] DEV_FN void proxy_fence() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

constexpr int kTileWords = 256;  // 1024 bytes of rows
// in: byte offset of each lane's row (32), the rows (256); out: register r of lane l at 4·l + r.
DEV_KERNEL(128, 1) conform_ldsm4(const uint32_t* in, uint32_t* out) {
  DEV_SHARED(shared);
  fill_shared(shared, in + 32, kTileWords);
  dev::sync();
  if (dev::tid() >= 32) return;
  uint32_t r[4];
  dev::ldsm4(r, shared + in[dev::tid()]);
  for (int i = 0; i < 4; ++i) out[4 * dev::tid() + i] = r[i];
}
DEV_KERNEL(128, 1) conform_ldsm4t(const uint32_t* in, uint32_t* out) {
  DEV_SHARED(shared);
  fill_shared(shared, in + 32, kTileWords);
  dev::sync();
  if (dev::tid() >= 32) return;
  uint32_t r[4];
  dev::ldsm4t(r, shared + in[dev::tid()]);
  for (int i = 0; i < 4; ++i) out[4 * dev::tid() + i] = r[i];
}

// in: a (32×4), b (32×2), c (32×4 floats); out: c.
DEV_KERNEL(128, 1) conform_mma(const uint32_t* in, uint32_t* out) {
  if (dev::tid() >= 32) return;
  const uint32_t* a = in + 4 * dev::tid();
  const uint32_t* b = in + 128 + 2 * dev::tid();
  const float* given = reinterpret_cast<const float*>(in + 192) + 4 * dev::tid();
  float* result = reinterpret_cast<float*>(out) + 4 * dev::tid();
  const uint32_t left[4] = {a[0], a[1], a[2], a[3]};
  float c[4] = {given[0], given[1], given[2], given[3]};
  dev::mma(c, left, b[0], b[1]);
  for (int i = 0; i < 4; ++i) result[i] = c[i];
}

// in: a, b (32 doubles each), c (32×2); out: c.
DEV_KERNEL(128, 1) conform_mma_f64(const uint32_t* in, uint32_t* out) {
  const int t = dev::tid();
  if (t >= 32) return;
  const double* given = reinterpret_cast<const double*>(in);
  double c[2] = {given[64 + 2 * t], given[65 + 2 * t]};
  dev::mma_f64(c, given[t], given[32 + t]);
  for (int i = 0; i < 2; ++i) reinterpret_cast<double*>(out)[2 * t + i] = c[i];
}

// in: wanted (128), 16 bytes each (128×4); out: what lies in shared memory afterwards.
DEV_KERNEL(128, 1) conform_cp16(const uint32_t* in, uint32_t* out) {
  DEV_SHARED(shared);
  const int t = dev::tid();
  dev::st16(shared + 16 * t, {0xdeadbeefu, 0xdeadbeefu, 0xdeadbeefu, 0xdeadbeefu});
  dev::sync();
  dev::cp16(shared + 16 * t, in + 128 + 4 * t, in[t] != 0);
  dev::cp_commit();
  dev::cp_wait<0>();
  dev::sync();
  dev::st16(out + 4 * t, dev::ld16(shared + 16 * (t ^ 1)));
}

// in: value, lane (32 each); out: shfl_xor by 1 2 4 8 16, shfl of `lane`, any(value odd), any(lane < 0): 32 each.
DEV_KERNEL(128, 1) conform_shuffle(const uint32_t* in, uint32_t* out) {
  const int t = dev::tid();
  if (t >= 32) return;
  const uint32_t value = in[t];
  for (int i = 0; i < 5; ++i) out[32 * i + t] = dev::shfl_xor(value, 1 << i);
  out[160 + t] = dev::shfl(value, static_cast<int>(in[32 + t]));
  out[192 + t] = dev::any((value & 1) != 0);
  out[224 + t] = dev::any(static_cast<int32_t>(in[32 + t]) < 0);
}

// ---- arithmetic: one value per element ------------------------------------------------------------------------------

constexpr int kValues = 256;
template <class Each>
DEV_FN void each_float(const uint32_t* in, uint32_t* out, const Each& each) {
  for (int i = dev::tid(); i < kValues; i += 128)
    reinterpret_cast<float*>(out)[i] = each(reinterpret_cast<const float*>(in)[i]);
}
DEV_KERNEL(128, 1) conform_ex2(const uint32_t* in, uint32_t* out) {
  each_float(in, out, [](float x) { return dev::ex2(x); });
}
DEV_KERNEL(128, 1) conform_lg2(const uint32_t* in, uint32_t* out) {
  each_float(in, out, [](float x) { return dev::lg2(x); });
}
DEV_KERNEL(128, 1) conform_rcp(const uint32_t* in, uint32_t* out) {
  each_float(in, out, [](float x) { return dev::rcp(x); });
}
// out: pack(x[i], x[255 − i]), then to_bf16(x[i]).
DEV_KERNEL(128, 1) conform_pack(const uint32_t* in, uint32_t* out) {
  const float* x = reinterpret_cast<const float*>(in);
  for (int i = dev::tid(); i < kValues; i += 128) {
    out[i] = dev::pack(x[i], x[kValues - 1 - i]);
    out[kValues + i] = dev::to_bf16(x[i]).bits;
  }
}
// out: unpack(word).lo, then .hi.
DEV_KERNEL(128, 1) conform_unpack(const uint32_t* in, uint32_t* out) {
  float* y = reinterpret_cast<float*>(out);
  for (int i = dev::tid(); i < kValues; i += 128) {
    const dev::Pair pair = dev::unpack(in[i]);
    y[i] = pair.lo;
    y[kValues + i] = pair.hi;
  }
}

// ---- sm_90a: wgmma and the copy engine ------------------------------------------------------------------------------

// What the kernels below need is in the compiled code: sm_90a, or the emulator.
#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define GALVANI_HOPPER 0
#else
#define GALVANI_HOPPER 1
#endif

// Descriptors: byte offset of A, of B, leading, stride; then slices to chain (each 16 deep), byte step of A and of B
// from slice to slice, whether the first adds to what d holds.
[[maybe_unused]] constexpr int kWgmmaHead = 8;
constexpr int kTileA = 64 * 128 / 4, kTileB = 128 * 128 / 4;  // words
[[maybe_unused]] DEV_FN float wgmma_initial(int thread, int i) { return static_cast<float>((7 * thread + i) % 5); }

// in: head, A (64 rows of 128 bytes), B (128 rows of 128 bytes); out: d[64] of each thread.
DEV_KERNEL(128, 1) conform_wgmma_ss(const uint32_t* in, uint32_t* out) {
#if GALVANI_HOPPER
  DEV_SHARED(shared);
  fill_shared(shared, in + kWgmmaHead, kTileA + kTileB);
  proxy_fence();
  dev::sync();
  const int t = dev::tid();
  float d[64];
  DEV_UNROLL
  for (int i = 0; i < 64; ++i) d[i] = wgmma_initial(t, i);
  for (uint32_t s = 0; s < in[4]; ++s) {
    dev::wg_touch(d);
    dev::wg_fence();
    const uint64_t a = dev::descriptor(shared + in[0] + s * in[5], static_cast<int>(in[2]), static_cast<int>(in[3]));
    const uint64_t b =
        dev::descriptor(shared + 4 * kTileA + in[1] + s * in[6], static_cast<int>(in[2]), static_cast<int>(in[3]));
    dev::wgmma_n128(d, a, b, s > 0 || in[7] != 0);
  }
  dev::wg_commit();
  dev::wg_wait<0>();
  dev::wg_touch(d);
  DEV_UNROLL
  for (int i = 0; i < 64; ++i) reinterpret_cast<float*>(out)[64 * t + i] = d[i];
#endif
}

// in: head, A registers (128×4, the same for every slice), B (two halves of 64 columns, 64 rows of 128 bytes each).
DEV_KERNEL(128, 1) conform_wgmma_rs(const uint32_t* in, uint32_t* out) {
#if GALVANI_HOPPER
  DEV_SHARED(shared);
  fill_shared(shared, in + kWgmmaHead + 512, kTileB);
  proxy_fence();
  dev::sync();
  const int t = dev::tid();
  float d[64];
  DEV_UNROLL
  for (int i = 0; i < 64; ++i) d[i] = wgmma_initial(t, i);
  const uint32_t* given = in + kWgmmaHead + 4 * t;
  const uint32_t a[4] = {given[0], given[1], given[2], given[3]};
  for (uint32_t s = 0; s < in[4]; ++s) {
    dev::wg_touch(d);
    dev::wg_fence();
    const uint64_t b = dev::descriptor(shared + in[1] + s * in[6], static_cast<int>(in[2]), static_cast<int>(in[3]));
    dev::wgmma_n128_rt(d, a, b, s > 0 || in[7] != 0);
  }
  dev::wg_commit();
  dev::wg_wait<0>();
  dev::wg_touch(d);
  DEV_UNROLL
  for (int i = 0; i < 64; ++i) reinterpret_cast<float*>(out)[64 * t + i] = d[i];
#endif
}

// A tensor of 3 × 5 × 128 elements, a box of 2 × 4 × 64 at (x, y, z). in: x, y, z, unused, the tensor; out: the box as
// it lies in shared memory.
constexpr int kTensor[3] = {128, 5, 3}, kBox[3] = {64, 4, 2};
constexpr int kTensorWords = 128 * 5 * 3 / 2, kBoxWords = 64 * 4 * 2 / 2;
DEV_KERNEL(128, 1) conform_tma(const uint32_t* in, uint32_t* out, const DEV_PARAM dev::TensorMap map) {
#if GALVANI_HOPPER
  DEV_SHARED(shared);
  uint64_t* bar = reinterpret_cast<uint64_t*>(shared + 4 * kBoxWords);
  if (dev::tid() == 0) {
    dev::mbar_init(bar, 1);
    dev::mbar_init_fence();
  }
  dev::sync();
  if (dev::tid() == 0) {
    dev::mbar_expect(bar, 4 * kBoxWords);
    dev::tma_3d(shared, &map, static_cast<int>(in[0]), static_cast<int>(in[1]), static_cast<int>(in[2]), bar);
  }
  dev::mbar_wait(bar, 0);
  for (int i = dev::tid(); i < kBoxWords / 4; i += 128) dev::st16(out + 4 * i, dev::ld16(shared + 16 * i));
#endif
}

}  // namespace galvani::gpu
