// A multiprocessor on a CPU, for tests: runs a kernel compiled by g++ with one fiber per thread, block after block.
//
// Warp and warpgroup instructions are rendezvous at which the last arrival computes. What hardware leaves open, a
// schedule decides: which warp runs ahead and which one starves, the order of lanes and blocks, whether cp.async, TMA and
// wgmma finish at once or as late as they may. Asynchronous destinations hold NaN while late results are under way, and
// shared memory starts as NaN, so that whoever reads too early is found out. Deadlocks, divergent warp instructions,
// misaligned accesses and over-arrived barriers end the launch with a sentence (emu::error()).
//
// What it cannot know: the meaning of descriptor bits on real hardware (test/fixtures/gpu pins those), weak memory
// between proxies, bank conflicts, speed.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>

namespace galvani::gpu::emu {

// 0: lanes, warps and blocks in order, asynchronous work finishes at once. Others: adversarial, seeded.
void set_schedule(uint64_t seed);
// What ended the last launch early; "" if nothing did.
const char* error();

struct Grid {
  int64_t x = 1, y = 1;
};
inline constexpr size_t kMaxShared = 227 * 1024;
// Runs every block; 0, or 1 with error().
int launch(const std::function<void()>& kernel, Grid grid, int threads, size_t shared_bytes);

// From inside a kernel.
int thread_index();
int block_threads();
int block_index(int axis);
int grid_size(int axis);
unsigned char* shared();
[[noreturn]] void fail(const char* what);
// A point where another warp may be let ahead.
void preempt();
void barrier(int id, int threads, bool wait);
void warp_sync(const char* name);
// Every lane of the warp gives 4 bytes and gets lane `from`'s.
uint32_t exchange(uint32_t value, int from);
bool any(bool predicate);
void ldmatrix(uint32_t (&r)[4], const void* row, bool transposed);
void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void mma_f64(double (&c)[2], double a, double b);
void cp_async(void* to, const void* from, bool ok);
void cp_commit();
void cp_wait(int pending);
void mbar_init(uint64_t* bar, int arrivals);
void mbar_arrive(uint64_t* bar, int64_t bytes);
void mbar_wait(uint64_t* bar, int parity);

// A tensor map's meaning: three dimensions of 2-byte elements, innermost contiguous, copied box by box.
struct Map {
  const unsigned char* base;
  int64_t size[3];
  int64_t stride[3];  // bytes; stride[0] is 2
  int32_t box[3];
};
void tma(void* to, const Map& map, const int (&at)[3], uint64_t* bar);

void wgmma_fence();
// d (64×128) of a warpgroup, A (64×16) by descriptor or registers, B (16×128) by descriptor.
void wgmma(float* d, const uint32_t* a, uint64_t desc_a, uint64_t desc_b, bool accumulate);
void wgmma_commit();
void wgmma_wait(int pending);
void set_registers(int count, bool more);

}  // namespace galvani::gpu::emu
