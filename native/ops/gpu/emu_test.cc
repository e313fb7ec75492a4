// The emulator must find what it is for: each kernel here has one mistake (or none), and the test says what must be seen.
#include "ops/gpu/emu.h"

#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "core/testing.h"
#include "ops/gpu/dev.h"

namespace galvani::gpu {
namespace {

int run(const std::function<void()>& kernel, int threads, size_t shared = 4096) {
  return emu::launch(kernel, {1, 1}, threads, shared);
}

void expect_error(const std::function<void()>& kernel, int threads, const std::string& part) {
  const int code = run(kernel, threads);
  EXPECT(code == 1 && std::string(emu::error()).find(part) != std::string::npos,
         "wanted '" + part + "', got '" + emu::error() + "'");
}

void refuses_mistakes() {
  alignas(16) static unsigned char global[64];
  expect_error([] { if (dev::tid() < 32) dev::sync(); }, 64, "deadlock: warp 0 waits at a barrier");
  expect_error([] { if (dev::tid() == 3) dev::sync_warp(); else (void)dev::shfl_xor(1.0f, 1); }, 32, "divergence");
  expect_error([] { dev::cp16(emu::shared() + 8, global, true); }, 32, "destination not 16-byte aligned");
  expect_error([] { dev::cp16(emu::shared() + 4096, global, true); }, 32, "outside shared memory");
  expect_error([] { (void)dev::ld16(global + 4); }, 32, "load not aligned");
  expect_error([] { uint32_t r[4]; dev::ldsm4(r, emu::shared() + 4); }, 32, "row address not 16-byte aligned");
  expect_error([] { dev::mbar_wait(reinterpret_cast<uint64_t*>(emu::shared()), 0); }, 32, "before mbarrier.init");
  expect_error(
      [] {
        auto* bar = reinterpret_cast<uint64_t*>(emu::shared());
        if (dev::tid() == 0) dev::mbar_init(bar, 2);
        dev::sync();
        if (dev::tid() == 0) dev::mbar_arrive(bar);
        dev::mbar_wait(bar, 0);
      },
      32, "deadlock: warp 0 waits at an mbarrier");
  expect_error([] { dev::bar_sync(1, dev::tid() < 32 ? 64 : 32); }, 64, "disagree");
  expect_error([] { dev::regs_more<240>(); emu::set_registers(30, true); }, 128, "setmaxnreg");
  expect_error([] { float acc[64] = {}; dev::wgmma_n128(acc, 0, 0, false); }, 128, "128-byte swizzle");
  EXPECT(emu::launch([] {}, {1, 1}, 33, 0) == 1, "33 threads are no warps");
  EXPECT(emu::launch([] {}, {1, 1}, 32, emu::kMaxShared + 1) == 1, "more shared memory than there is");
  EXPECT(run([] {}, 32) == 0 && emu::error()[0] == '\0', "a good launch after bad ones");
}

// In how many of `seeds` adversarial schedules the result differs from `right`, or the launch fails.
int caught(const std::function<void(std::vector<float>&)>& kernel, int threads, const std::vector<float>& right, int seeds) {
  int count = 0;
  for (int seed = 1; seed <= seeds; ++seed) {
    emu::set_schedule(static_cast<uint64_t>(seed));
    std::vector<float> out(right.size(), 0.0f);
    const int code = run([&] { kernel(out); }, threads);
    if (code != 0 || std::memcmp(out.data(), right.data(), out.size() * sizeof(float)) != 0) ++count;
  }
  emu::set_schedule(0);
  return count;
}

// Two warps hand values over through shared memory; `first` and `second` say which barriers are there.
void hand_over(std::vector<float>& out, bool first, bool second) {
  auto* cell = reinterpret_cast<float*>(emu::shared());
  const int t = dev::tid();
  for (int round = 0; round < 3; ++round) {
    cell[t] = static_cast<float>(100 * round + t);
    if (first) dev::sync();
    out[static_cast<size_t>(round * 64 + t)] = cell[63 - t];
    if (second) dev::sync();
  }
}

void finds_races() {
  std::vector<float> right(3 * 64);
  for (int round = 0; round < 3; ++round)
    for (int t = 0; t < 64; ++t) right[static_cast<size_t>(round * 64 + t)] = static_cast<float>(100 * round + 63 - t);
  EXPECT(caught([](auto& out) { hand_over(out, true, true); }, 64, right, 40) == 0, "no false alarm");
  EXPECT(caught([](auto& out) { hand_over(out, false, true); }, 64, right, 40) > 0, "missing barrier before the read");
  EXPECT(caught([](auto& out) { hand_over(out, true, false); }, 64, right, 40) > 0, "missing barrier before reuse");
}

void finds_early_reads() {
  alignas(16) static float global[128];
  for (int i = 0; i < 128; ++i) global[i] = static_cast<float>(i);
  const auto copy = [](std::vector<float>& out, bool wait) {
    auto* to = reinterpret_cast<float*>(emu::shared());
    const int t = dev::tid();
    dev::cp16(to + 4 * t, global + 4 * t, true);
    dev::cp_commit();
    if (wait)
      dev::cp_wait<0>();
    else
      dev::cp_wait<1>();
    for (int i = 0; i < 4; ++i) out[static_cast<size_t>(4 * t + i)] = to[4 * t + i];
  };
  const std::vector<float> right(global, global + 128);
  EXPECT(caught([&](auto& out) { copy(out, true); }, 32, right, 20) == 0, "no false alarm");
  EXPECT(caught([&](auto& out) { copy(out, false); }, 32, right, 20) > 0, "cp.async read before it was waited for");
  EXPECT(caught([](auto& out) { out[0] = reinterpret_cast<float*>(emu::shared())[0]; }, 32, {0.0f}, 1) == 1,
         "uninitialised shared memory is NaN");
}

// 64×128 = A (64×16, K-major) · Bᵀ (128×16, K-major) by wgmma; `wait` and `stride` may be wrong.
void multiply(std::vector<float>& out, bool wait, int stride) {
  unsigned char* a = emu::shared();
  unsigned char* b = a + 8192;
  const int t = dev::tid();
  const auto put = [](unsigned char* tile, int row, int k, float value) {
    const int at = row * 128 + (((k / 8) ^ (row & 7)) << 4) + (k % 8) * 2;
    const bf16 h = dev::to_bf16(value);
    std::memcpy(tile + at, &h, 2);
  };
  for (int k = 0; k < 16; ++k) {
    if (t < 64) put(a, t, k, static_cast<float>((t + k) % 3));
    put(b, t, k, static_cast<float>((t * k) % 5));
  }
  dev::sync();
  float d[64];
  dev::wg_fence();
  dev::wgmma_n128(d, dev::descriptor(a, 16, 1024), dev::descriptor(b, 16, stride), false);
  dev::wg_commit();
  if (wait) dev::wg_wait<0>();
  for (int i = 0; i < 64; ++i) {
    const int row = 16 * (t / 32) + (t % 32) / 4 + (i & 2 ? 8 : 0), column = 8 * (i / 4) + 2 * (t % 4) + (i & 1);
    out[static_cast<size_t>(row * 128 + column)] = d[i];
  }
  if (!wait) dev::wg_wait<0>();
}

int wgmma_caught(bool wait, int stride) {
  std::vector<float> right(64 * 128, 0.0f);
  for (int r = 0; r < 64; ++r)
    for (int n = 0; n < 128; ++n)
      for (int k = 0; k < 16; ++k) right[static_cast<size_t>(r * 128 + n)] += static_cast<float>(((r + k) % 3) * ((n * k) % 5));
  int count = 0;
  for (int seed = 1; seed <= 12; ++seed) {
    emu::set_schedule(static_cast<uint64_t>(seed));
    std::vector<float> out(right.size(), 0.0f);
    const int code = run([&] { multiply(out, wait, stride); }, 128, 8192 + 16384);
    if (code != 0 || std::memcmp(out.data(), right.data(), out.size() * sizeof(float)) != 0) ++count;
  }
  emu::set_schedule(0);
  return count;
}

void finds_tensor_core_mistakes() {
  EXPECT(wgmma_caught(true, 1024) == 0, "no false alarm");
  EXPECT(wgmma_caught(false, 1024) > 0, "accumulators read before the wait");
  EXPECT(wgmma_caught(true, 512) == 12, "wrong descriptor stride");
}

void copies_boxes() {
  // A (3 pages, 4 rows, 64 columns) tensor; the box starts at row 2 of page 1 and reaches beyond the page.
  std::vector<uint16_t> tensor(3 * 4 * 64);
  for (size_t i = 0; i < tensor.size(); ++i) tensor[i] = static_cast<uint16_t>(i + 1);
  dev::TensorMap map{};
  map.map = {reinterpret_cast<const unsigned char*>(tensor.data()), {64, 4, 3}, {2, 128, 512}, {64, 4, 1}};
  for (uint64_t seed = 0; seed < 6; ++seed) {
    emu::set_schedule(seed);
    std::vector<uint16_t> out(4 * 64, 0xffff);
    const auto kernel = [&] {
      unsigned char* tile = emu::shared();
      auto* bar = reinterpret_cast<uint64_t*>(tile + 1024);
      if (dev::tid() == 0) {
        dev::mbar_init(bar, 1);
        dev::mbar_expect(bar, 4 * 128);
        dev::tma_3d(tile, &map, 0, 2, 1, bar);
      }
      dev::sync();
      dev::mbar_wait(bar, 0);
      for (int i = dev::tid(); i < 4 * 64; i += 32) {
        const int row = i / 64, chunk = i % 64 / 8;
        std::memcpy(&out[static_cast<size_t>(i)], tile + row * 128 + ((chunk ^ row) << 4) + (i % 8) * 2, 2);
      }
    };
    EXPECT(run(kernel, 32) == 0, emu::error());
    for (int i = 0; i < 4 * 64; ++i) {
      const int row = i / 64 + 2;
      const uint16_t right = row < 4 ? tensor[static_cast<size_t>((4 + row) * 64 + i % 64)] : 0;
      EXPECT(out[static_cast<size_t>(i)] == right, "element " + std::to_string(i) + " of the box");
    }
  }
  emu::set_schedule(0);
}

}  // namespace
}  // namespace galvani::gpu

int main() {
  using namespace galvani::gpu;
  refuses_mistakes();
  finds_races();
  finds_early_reads();
  finds_tensor_core_mistakes();
  copies_boxes();
  return galvani::testing::report();
}
