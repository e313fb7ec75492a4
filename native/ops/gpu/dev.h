// The device layer: what kernels use instead of CUDA. One source, two compilers: nvcc compiles it to PTX (dev_cuda.h),
// g++ to calls of an emulator (dev_emu.h over emu.h) that runs the same kernels on a CPU under adversarial schedules.
//
//   DEV_KERNEL(threads, blocks) void name(Params p)   a kernel; `blocks` per multiprocessor is a wish
//   DEV_FN                                            a device function
//   DEV_SHARED(name)                                  the block's dynamic shared memory, 1024-byte aligned
//   DEV_UNROLL                                        unrolls the next loop; register arrays need constant indices
//   DEV_LAUNCH(kernel, grid, threads, shared, stream, args…)   → 0 or an error code (host side)
//
// In namespace galvani::gpu::dev:
//   tid() bid() bid_y() grid()              thread in block, block, number of blocks
//   sync()  sync_warp()                     barrier of the block, of the warp
//   bar_sync(id, n)  bar_arrive(id, n)      named barriers 1 … 15
//   shfl_xor(v, mask)  shfl(v, lane)        float, int32_t, uint32_t; the whole warp takes part
//   any(predicate)                          of the warp
//   ex2(x)  lg2(x)  rcp(x)                  2^x, log2 x, 1/x, float32
//   pack(lo, hi) → uint32_t                 two floats to bf16x2, round to nearest even; lo in the low half
//   unpack(u) → Pair{lo, hi}                back
//   to_float(bf16)  to_bf16(float)
//   ld16(p) → U4  st16(p, U4)               16-byte global or shared access
//   cp16(dst, src, ok)                      cp.async 16 bytes, zeros when !ok;  cp_commit()  cp_wait<N>()
//   ldsm4(r, p)  ldsm4t(r, p)               ldmatrix x4, plain and transposed; p: this lane's row address
//   mma(c, a, b0, b1)                       c += a·b, m16n8k16 bf16 → f32
//   mma_f64(c, a, b)                        c += a·b, m8n8k4 float64
//   mbar_init(b, n)  mbar_expect(b, bytes)  mbar_arrive(b)  mbar_wait(b, parity)  mbar_init_fence()
//   tma_3d(dst, map, x, y, z, bar)          copies the map's box at (x, y, z) into 128-byte-swizzled shared memory
//   wg_fence()  wg_commit()  wg_wait<N>()  wg_touch(regs)    wgmma ordering; wg_touch keeps the compiler's hands off
//   wgmma_n128(d, descA, descB, accumulate)      d(64×128) (+)= A(64×16, K-major) · B(16×128, K-major), both shared
//   wgmma_n128_rt(d, a, descB, accumulate)       A from registers, B MN-major ("transposed")
//   descriptor(p, leading, stride)               128-byte swizzle, strides in bytes
//   regs_more<R>()  regs_less<R>()               setmaxnreg
#pragma once
#ifdef __CUDACC__
#include "ops/gpu/dev_cuda.h"
#else
#include "ops/gpu/dev_emu.h"
#endif
