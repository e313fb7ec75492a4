// The device layer over PTX. Words: dev.h. Instructions: PTX ISA 9.0; wgmma and setmaxnreg need sm_90a.
#pragma once
#include <cstddef>
#include <cstdint>

#include "ops/gpu/attn_types.h"

#define DEV_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define DEV_FN __device__ __forceinline__
#define DEV_PARAM __grid_constant__
#define DEV_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]
#define DEV_UNROLL _Pragma("unroll")
// More than 48 KB of shared memory must be asked for; asking is cheap and idempotent. A template kernel goes in parentheses,
// its commas would cut the macro's arguments.
#define DEV_LAUNCH(kernel, grid, threads, shared, stream, ...) \
  ::galvani::gpu::dev::launch_with(kernel, grid, threads, shared, stream, __VA_ARGS__)

namespace galvani::gpu::dev {

struct Grid {
  int64_t x = 1, y = 1;
};

template <class... Formal, class... Args>
int launch_with(void (*kernel)(Formal...), Grid grid, int threads, size_t shared, void* stream, const Args&... args) {
  if (grid.x <= 0 || grid.y <= 0) return 0;
  cudaError_t status = cudaSuccess;
  if (shared > 48 * 1024)
    status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
  if (status != cudaSuccess) return static_cast<int>(status);
  kernel<<<dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y)), threads, shared,
           static_cast<cudaStream_t>(stream)>>>(args...);
  return static_cast<int>(cudaGetLastError());
}

struct alignas(16) U4 {
  uint32_t x, y, z, w;
};
struct Pair {
  float lo, hi;
};

DEV_FN uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

DEV_FN int tid() { return static_cast<int>(threadIdx.x); }
DEV_FN int bid() { return static_cast<int>(blockIdx.x); }
DEV_FN int bid_y() { return static_cast<int>(blockIdx.y); }
DEV_FN int grid() { return static_cast<int>(gridDim.x); }
DEV_FN void sync() { __syncthreads(); }
DEV_FN void sync_warp() { __syncwarp(); }
DEV_FN void bar_sync(int id, int n) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n) : "memory"); }
DEV_FN void bar_arrive(int id, int n) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(n) : "memory"); }

template <class T>
DEV_FN T shfl(T v, int lane) {
  return __shfl_sync(0xffffffffu, v, lane);
}
template <class T>
DEV_FN T shfl_xor(T v, int mask) {
  return __shfl_xor_sync(0xffffffffu, v, mask);
}
DEV_FN bool any(bool predicate) { return __any_sync(0xffffffffu, predicate); }

DEV_FN float ex2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
DEV_FN float lg2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
DEV_FN float rcp(float x) { return __frcp_rn(x); }
DEV_FN float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
DEV_FN float max(float a, float b) { return fmaxf(a, b); }
DEV_FN float min(float a, float b) { return fminf(a, b); }
DEV_FN float inf() { return __int_as_float(0x7f800000); }

DEV_FN float to_float(bf16 h) { return __uint_as_float(static_cast<uint32_t>(h.bits) << 16); }
DEV_FN bf16 to_bf16(float f) {
  bf16 h;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h.bits) : "f"(f));
  return h;
}
DEV_FN uint32_t pack(float lo, float hi) {
  uint32_t v;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(hi), "f"(lo));
  return v;
}
DEV_FN Pair unpack(uint32_t v) { return {__uint_as_float(v << 16), __uint_as_float(v & 0xffff0000u)}; }

DEV_FN U4 ld16(const void* p) { return *static_cast<const U4*>(p); }
DEV_FN void st16(void* p, U4 v) { *static_cast<U4*>(p) = v; }

DEV_FN void cp16(void* to, const void* from, bool ok) {
  const int bytes = ok ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
               : "memory");
}
DEV_FN void cp_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
DEV_FN void cp_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
DEV_FN void ldsm4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
DEV_FN void ldsm4t(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
DEV_FN void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
DEV_FN void mma_f64(double (&c)[2], double a, double b) {
  asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
               : "+d"(c[0]), "+d"(c[1])
               : "d"(a), "d"(b));
}

DEV_FN void mbar_init(uint64_t* b, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals) : "memory");
}
// Makes initialised barriers visible to the copy engine.
DEV_FN void mbar_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEV_FN void mbar_expect(uint64_t* b, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes)
               : "memory");
}
DEV_FN void mbar_arrive(uint64_t* b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
DEV_FN void mbar_wait(uint64_t* b, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "AGAIN:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra AGAIN;\n"
      "}\n" ::"r"(shared_address(b)),
      "r"(parity)
      : "memory");
}

// A CUtensorMap; made on the host by tensor_map.h.
struct alignas(64) TensorMap {
  uint64_t opaque[16];
};
DEV_FN void tma_3d(void* to, const TensorMap* map, int x, int y, int z, uint64_t* bar) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(
          shared_address(to)),
      "l"(map), "r"(shared_address(bar)), "r"(x), "r"(y), "r"(z)
      : "memory");
}

DEV_FN void wg_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEV_FN void wg_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N>
DEV_FN void wg_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
// Nothing else orders plain reads of accumulators against the asynchronous wgmma that writes them.
template <int N>
DEV_FN void wg_touch(float (&r)[N]) {
  DEV_UNROLL
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(r[i])::"memory");
}

// Start address, leading and stride byte offsets in units of 16 bytes; bits 62–63 = 1: 128-byte swizzle.
DEV_FN uint64_t descriptor(const void* p, int leading, int stride) {
  return static_cast<uint64_t>((shared_address(p) & 0x3ffff) >> 4) | static_cast<uint64_t>(leading >> 4) << 16 |
         static_cast<uint64_t>(stride >> 4) << 32 | uint64_t{1} << 62;
}

#define GALVANI_F4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define GALVANI_F16(d, i) GALVANI_F4(d, i), GALVANI_F4(d, i + 4), GALVANI_F4(d, i + 8), GALVANI_F4(d, i + 12)
#define GALVANI_F64(d) GALVANI_F16(d, 0), GALVANI_F16(d, 16), GALVANI_F16(d, 32), GALVANI_F16(d, 48)
#define GALVANI_D64                                                                                     \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "    \
  "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, " \
  "%41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, " \
  "%61, %62, %63}"
DEV_FN void wgmma_n128(float (&d)[64], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " GALVANI_D64 ", %64, %65, p, 1, 1, 0, 0;\n}\n"
      : GALVANI_F64(d)
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}
DEV_FN void wgmma_n128_rt(float (&d)[64], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " GALVANI_D64 ", {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}\n"
      : GALVANI_F64(d)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)));
}
#undef GALVANI_F4
#undef GALVANI_F16
#undef GALVANI_F64
#undef GALVANI_D64

template <int R>
DEV_FN void regs_more() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(R));
}
template <int R>
DEV_FN void regs_less() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(R));
}

}  // namespace galvani::gpu::dev
