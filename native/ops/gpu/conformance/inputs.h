// Inputs of conformance.cu: made from a seed, the same on every machine.
#pragma once
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "ops/gpu/conformance/kernels.h"

namespace galvani::gpu {

using Words = std::vector<uint32_t>;

struct Random {
  uint64_t state;
  uint32_t bits() {
    uint64_t z = (state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    return static_cast<uint32_t>((z ^ (z >> 27)) >> 16);
  }
  int32_t between(int32_t low, int32_t high) {
    return low + static_cast<int32_t>(bits() % static_cast<uint32_t>(high - low + 1));
  }
};
inline uint32_t word(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  return bits;
}
// Two small integers as bfloat16: their products and sums are exact in any order, so that only layout can differ.
inline uint32_t small_pair(Random& r) {
  const uint32_t lo = word(static_cast<float>(r.between(-2, 2))) >> 16;
  return lo | (word(static_cast<float>(r.between(-2, 2))) & 0xffff0000u);
}
// Normal-looking bfloat16 pairs over twelve binades.
inline uint32_t wide_pair(Random& r) {
  const auto half = [&] { return r.bits() % 2 << 15 | static_cast<uint32_t>(r.between(121, 132)) << 7 | r.bits() % 128; };
  const uint32_t lo = half();
  return lo | half() << 16;
}

inline Words ldsm_input(Random& r) {
  Words in(32);
  for (uint32_t i = 0; i < 32; ++i) in[i] = 16 * (i * 2 + r.bits() % 2);  // two candidates per lane: no order to guess
  for (uint32_t i = 0; i < 32; ++i) std::swap(in[i], in[r.bits() % 32]);
  for (uint32_t i = 0; i < kTileWords; ++i) in.push_back(2 * i | (2 * i + 1) << 16);
  return in;
}
inline Words mma_input(Random& r) {
  Words in;
  for (int i = 0; i < 192; ++i) in.push_back(small_pair(r));
  for (int i = 0; i < 128; ++i) in.push_back(word(static_cast<float>(r.between(-9, 9))));
  return in;
}
inline Words mma_wide_input(Random& r) {
  Words in;
  for (int i = 0; i < 192; ++i) in.push_back(wide_pair(r));
  for (int i = 0; i < 128; ++i) in.push_back(wide_pair(r) & 0xffff0000u);
  return in;
}
// Small integers: exact in any order, so that only layout can differ.
inline Words mma_f64_input(Random& r) {
  Words in(256);
  for (int i = 0; i < 128; ++i) {
    const double value = r.between(-9, 9);
    std::memcpy(&in[static_cast<size_t>(2 * i)], &value, 8);
  }
  return in;
}
inline Words cp16_input(Random& r) {
  Words in;
  for (int i = 0; i < 128; ++i) in.push_back(r.bits() % 2);
  for (int i = 0; i < 512; ++i) in.push_back(r.bits());
  return in;
}
inline Words shuffle_input(Random& r) {
  Words in;
  for (int i = 0; i < 32; ++i) in.push_back(r.bits());
  for (int i = 0; i < 32; ++i) in.push_back(r.bits() % 32);
  return in;
}
// Signs, zeros, subnormals, the ends of every range, ties of rounding to bfloat16, infinities, NaN, then a sweep.
inline Words float_input(Random& r) {
  Words in = {0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007fffff, 0x00800000, 0x80800000, 0x7f7fffff,
              0xff7fffff, 0x7f800000, 0xff800000, 0x7fc00000, 0x3f800000, 0xbf800000, 0x3f808000, 0x3f818000,
              0x3f808001, 0x3f807fff, 0x7f7f8000, 0x7f7f7fff, 0x00008000, 0x00018000, 0x3f7fffff, 0x3f800001};
  for (const float x : {127.0f, 127.99f, 128.0f, 129.0f, -125.5f, -126.0f, -126.5f, -127.0f, -148.0f, -149.0f, -150.0f,
                        -151.0f, 0.5f, 2.0f, 1e-30f, -1e30f, 1e30f, 0.693147f})
    in.push_back(word(x));
  while (in.size() < kValues / 2) in.push_back(word(static_cast<float>(r.between(-130000, 130000)) / 1000.0f));
  while (in.size() < kValues) in.push_back(r.bits() % 0x7f800000u | (in.size() % 8 == 0 ? 0x80000000u : 0u));
  return in;
}
inline Words word_input(Random& r) {
  Words in = {0x00000000, 0x80008000, 0x3f80bf80, 0x7f80ff80, 0x00010080};
  while (in.size() < kValues) in.push_back(r.bits());
  return in;
}
inline Words wgmma_input(Random& r, Words head, int words) {
  for (int i = 0; i < words; ++i) head.push_back(small_pair(r));
  return head;
}
constexpr uint32_t kHalf = 64 * 128;  // bytes of 64 rows
inline Words tma_input(int32_t x, int32_t y, int32_t z) {
  Words in = {static_cast<uint32_t>(x), static_cast<uint32_t>(y), static_cast<uint32_t>(z), 0};
  for (uint32_t i = 0; i < kTensorWords; ++i) in.push_back((2 * i + 1) | (2 * i + 2) << 16);
  return in;
}

}  // namespace galvani::gpu
