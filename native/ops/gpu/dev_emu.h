// The device layer over the emulator. Words: dev.h.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#include "ops/gpu/attn_types.h"
#include "ops/gpu/emu.h"

#define DEV_KERNEL(threads, blocks) void
#define DEV_FN inline
#define DEV_PARAM
#define DEV_SHARED(name) unsigned char* name = ::galvani::gpu::emu::shared()
#define DEV_UNROLL
// Arguments are copied at the launch, as on a device.
#define DEV_LAUNCH(kernel, grid, threads, shared, stream, ...)                                   \
  ((void)(stream), ::galvani::gpu::dev::launch_with([](const auto&... a) { kernel(a...); }, grid, threads, shared, __VA_ARGS__))

namespace galvani::gpu::dev {

using emu::Grid;
template <class Kernel, class... Args>
int launch_with(Kernel kernel, Grid grid, int threads, size_t shared, const Args&... args) {
  return emu::launch([=] { kernel(args...); }, grid, threads, shared);
}

struct alignas(16) U4 {
  uint32_t x, y, z, w;
};
struct Pair {
  float lo, hi;
};

DEV_FN int tid() { return emu::thread_index(); }
DEV_FN int bid() { return emu::block_index(0); }
DEV_FN int bid_y() { return emu::block_index(1); }
DEV_FN int grid() { return emu::grid_size(0); }
DEV_FN void sync() { emu::barrier(0, emu::block_threads(), true); }
DEV_FN void sync_warp() { emu::warp_sync("__syncwarp"); }
DEV_FN void bar_sync(int id, int n) { emu::barrier(id, n, true); }
DEV_FN void bar_arrive(int id, int n) { emu::barrier(id, n, false); }

template <class T>
DEV_FN T shfl(T v, int lane) {
  static_assert(sizeof(T) == 4);
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  bits = emu::exchange(bits, lane);
  std::memcpy(&v, &bits, 4);
  return v;
}
template <class T>
DEV_FN T shfl_xor(T v, int mask) {
  return shfl(v, (tid() & 31) ^ mask);
}
DEV_FN bool any(bool predicate) { return emu::any(predicate); }

// .ftz: subnormal operands and results are zeros of their sign.
DEV_FN float flush(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }
DEV_FN float ex2(float x) { return flush(std::exp2(flush(x))); }
DEV_FN float lg2(float x) { return std::log2(flush(x)); }
DEV_FN float rcp(float x) { return 1.0f / x; }
DEV_FN float fma(float a, float b, float c) { return std::fma(a, b, c); }
DEV_FN float max(float a, float b) { return std::fmax(a, b); }
DEV_FN float min(float a, float b) { return std::fmin(a, b); }
DEV_FN float inf() { return INFINITY; }

DEV_FN float to_float(bf16 h) {
  const uint32_t bits = static_cast<uint32_t>(h.bits) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}
DEV_FN bf16 to_bf16(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  if (f != f) return {0x7fff};
  bits += 0x7fff + ((bits >> 16) & 1);
  return {static_cast<uint16_t>(bits >> 16)};
}
DEV_FN uint32_t pack(float lo, float hi) {
  return to_bf16(lo).bits | static_cast<uint32_t>(to_bf16(hi).bits) << 16;
}
DEV_FN Pair unpack(uint32_t v) {
  return {to_float({static_cast<uint16_t>(v)}), to_float({static_cast<uint16_t>(v >> 16)})};
}

DEV_FN U4 ld16(const void* p) {
  if (reinterpret_cast<uintptr_t>(p) % 16 != 0) emu::fail("16-byte load not aligned");
  U4 v;
  std::memcpy(&v, p, 16);
  return v;
}
DEV_FN void st16(void* p, U4 v) {
  if (reinterpret_cast<uintptr_t>(p) % 16 != 0) emu::fail("16-byte store not aligned");
  std::memcpy(p, &v, 16);
}

DEV_FN void cp16(void* to, const void* from, bool ok) { emu::cp_async(to, from, ok); }
DEV_FN void cp_commit() { emu::cp_commit(); }
template <int N>
DEV_FN void cp_wait() {
  emu::cp_wait(N);
}
DEV_FN void ldsm4(uint32_t (&r)[4], const void* row) { emu::ldmatrix(r, row, false); }
DEV_FN void ldsm4t(uint32_t (&r)[4], const void* row) { emu::ldmatrix(r, row, true); }
DEV_FN void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { emu::mma(c, a, b0, b1); }
DEV_FN void mma_f64(double (&c)[2], double a, double b) { emu::mma_f64(c, a, b); }

DEV_FN void mbar_init(uint64_t* b, int arrivals) { emu::mbar_init(b, arrivals); }
DEV_FN void mbar_init_fence() {}
DEV_FN void mbar_expect(uint64_t* b, int bytes) { emu::mbar_arrive(b, bytes); }
DEV_FN void mbar_arrive(uint64_t* b) { emu::mbar_arrive(b, 0); }
DEV_FN void mbar_wait(uint64_t* b, int parity) { emu::mbar_wait(b, parity); }

struct alignas(64) TensorMap {
  emu::Map map;
  unsigned char unused[128 - sizeof(emu::Map)];
};
DEV_FN void tma_3d(void* to, const TensorMap* map, int x, int y, int z, uint64_t* bar) {
  emu::tma(to, map->map, {x, y, z}, bar);
}

DEV_FN void wg_fence() { emu::wgmma_fence(); }
DEV_FN void wg_commit() { emu::wgmma_commit(); }
template <int N>
DEV_FN void wg_wait() {
  emu::wgmma_wait(N);
}
template <int N>
DEV_FN void wg_touch(float (&)[N]) {}
DEV_FN uint64_t descriptor(const void* p, int leading, int stride) {
  const auto at = static_cast<uint32_t>(static_cast<const unsigned char*>(p) - emu::shared());
  return static_cast<uint64_t>((at & 0x3ffff) >> 4) | static_cast<uint64_t>(leading >> 4) << 16 |
         static_cast<uint64_t>(stride >> 4) << 32 | uint64_t{1} << 62;
}
DEV_FN void wgmma_n128(float (&d)[64], uint64_t a, uint64_t b, bool accumulate) {
  emu::wgmma(d, nullptr, a, b, accumulate);
}
DEV_FN void wgmma_n128_rt(float (&d)[64], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  emu::wgmma(d, a, 0, b, accumulate);
}
template <int R>
DEV_FN void regs_more() {
  emu::set_registers(R, true);
}
template <int R>
DEV_FN void regs_less() {
  emu::set_registers(R, false);
}

}  // namespace galvani::gpu::dev
