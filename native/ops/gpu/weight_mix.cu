// Merging weights that lie in device memory (weights_types.h): inner products of the inputs and their weighted sum, of
// which every merge method in the span of its inputs is made (linear, slerp, nuslerp, multislerp, karcher, task
// arithmetic, model stock: ops/combine.h).
#include "ops/gpu/dev.h"
#include "ops/gpu/launchers.h"
#include "ops/gpu/weight_load.h"

namespace galvani::gpu {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kRounds = static_cast<int>(kDeltaChunk / (8 * kThreads));

constexpr int pairs(int count) { return count * (count + 1) / 2; }
static_assert(pairs(kMixMost) <= kThreads);

template <int kCount>
DEV_KERNEL(kThreads, 1) weight_dots_kernel(DEV_PARAM const WeightDotsParams p) {
  DEV_SHARED(shared);
  double* const partial = reinterpret_cast<double*>(shared);  // (warps, pairs)
  double sums[pairs(kCount)] = {};
  for (int round = 0; round < kRounds; ++round) {
    const int64_t at = dev::bid() * kDeltaChunk + 8 * (dev::tid() + static_cast<int64_t>(round) * kThreads);
    const int64_t rest = p.elements - at;
    if (rest <= 0) break;
    float w[kCount][8];
    DEV_UNROLL
    for (int i = 0; i < kCount; ++i) load_weights(p.inputs[i], p.types[i], at, rest < 8 ? static_cast<int>(rest) : 8, w[i]);
    int pair = 0;
    DEV_UNROLL
    for (int i = 0; i < kCount; ++i)
      DEV_UNROLL
      for (int j = i; j < kCount; ++j, ++pair)
        DEV_UNROLL
        for (int e = 0; e < 8; ++e) sums[pair] += static_cast<double>(w[i][e]) * static_cast<double>(w[j][e]);
  }
  DEV_UNROLL
  for (int pair = 0; pair < pairs(kCount); ++pair) {
    const double sum = warp_total(sums[pair]);
    if ((dev::tid() & 31) == 0) partial[(dev::tid() >> 5) * pairs(kCount) + pair] = sum;
  }
  dev::sync();
  if (dev::tid() < pairs(kCount)) {
    double sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += partial[w * pairs(kCount) + dev::tid()];
    p.partial[static_cast<int64_t>(dev::bid()) * pairs(kCount) + dev::tid()] = sum;
  }
}

// One thread per product, blocks in order.
DEV_KERNEL(64, 1) weight_dots_finish_kernel(DEV_PARAM const WeightDotsParams p) {
  const int count = pairs(p.count);
  if (dev::tid() >= count) return;
  double sum = 0;
  for (int64_t b = 0; b * kDeltaChunk < p.elements; ++b) sum += p.partial[b * count + dev::tid()];
  p.dots[dev::tid()] = sum;
}

DEV_FN uint32_t to_half(float x) {
  const uint32_t sign = as_bits(x) >> 16 & 0x8000u, magnitude = as_bits(x) & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // rounds beyond 65504
  if (magnitude < 0x38800000u)  // subnormal: 0.5f has the spacing of half's subnormals as its last place
    return sign | (as_bits(as_float(magnitude) + 0.5f) - 0x3f000000u);
  return sign | (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
}

DEV_FN void store_weights(void* base, WeightType type, int64_t at, int valid, const float (&x)[8]) {
  if (type == WeightType::kF32) {
    float* to = static_cast<float*>(base) + at;
    if (valid == 8) return store8(to, x);
    DEV_UNROLL
    for (int i = 0; i < 8; ++i)
      if (i < valid) to[i] = x[i];
    return;
  }
  uint32_t bits[8];
  DEV_UNROLL
  for (int i = 0; i < 8; ++i) bits[i] = type == WeightType::kBF16 ? dev::to_bf16(x[i]).bits : to_half(x[i]);
  uint16_t* to = static_cast<uint16_t*>(base) + at;
  if (valid == 8)
    return dev::st16(to, {bits[0] | bits[1] << 16, bits[2] | bits[3] << 16, bits[4] | bits[5] << 16, bits[6] | bits[7] << 16});
  DEV_UNROLL
  for (int i = 0; i < 8; ++i)
    if (i < valid) to[i] = static_cast<uint16_t>(bits[i]);
}

DEV_KERNEL(kThreads, 4) weight_sum_kernel(DEV_PARAM const WeightSumParams p) {
  const int64_t at = 8 * (static_cast<int64_t>(dev::bid()) * kThreads + dev::tid()), rest = p.elements - at;
  if (rest <= 0) return;
  const int valid = rest < 8 ? static_cast<int>(rest) : 8;
  double sums[8];
  DEV_UNROLL
  for (int input = 0; input < kMixMost; ++input) {
    if (input >= p.count) break;
    float w[8];
    load_weights(p.inputs[input], p.types[input], at, valid, w);
    // The first product is not added to 0, which would lose the sign of a zero.
    DEV_UNROLL
    for (int e = 0; e < 8; ++e) {
      const double product = p.factors[input] * static_cast<double>(w[e]);
      sums[e] = input == 0 ? product : sums[e] + product;
    }
  }
  float out[8];
  DEV_UNROLL
  for (int e = 0; e < 8; ++e) out[e] = static_cast<float>(sums[e]);
  store_weights(p.out, p.out_type, at, valid, out);
}

template <class Params>
int refuse_mix(const Params& p) {
  if (p.count < 1 || p.count > kMixMost) return refuse("%d inputs; expected 1 to %d", p.count, kMixMost);
  if (p.elements < 0 || p.elements > kDeltaChunk * INT32_MAX / 16)
    return refuse("%lld elements", static_cast<long long>(p.elements));
  return refuse_weights(p.inputs, p.types, p.count);
}

template <int kCount>
int launch_dots(const WeightDotsParams& p, void* stream) {
  const dev::Grid grid{(p.elements + kDeltaChunk - 1) / kDeltaChunk, 1};
  constexpr size_t kShared = kWarps * pairs(kCount) * sizeof(double);
  return DEV_LAUNCH((weight_dots_kernel<kCount>), grid, kThreads, kShared, stream, p);
}

}  // namespace

int weight_dots_launch(const WeightDotsParams& p, void* stream) {
  if (const int code = refuse_mix(p)) return code;
  int code = 0;
  switch (p.count) {
    case 1: code = launch_dots<1>(p, stream); break;
    case 2: code = launch_dots<2>(p, stream); break;
    case 3: code = launch_dots<3>(p, stream); break;
    case 4: code = launch_dots<4>(p, stream); break;
    case 5: code = launch_dots<5>(p, stream); break;
    case 6: code = launch_dots<6>(p, stream); break;
    case 7: code = launch_dots<7>(p, stream); break;
    default: code = launch_dots<8>(p, stream);
  }
  return code ? code : DEV_LAUNCH(weight_dots_finish_kernel, (dev::Grid{1, 1}), 64, 0, stream, p);
}

int weight_sum_launch(const WeightSumParams& p, void* stream) {
  if (const int code = refuse_mix(p)) return code;
  if (reinterpret_cast<uintptr_t>(p.out) % 16 != 0) return refuse("the output is not 16-byte aligned");
  if (p.out_type != WeightType::kF32 && p.out_type != WeightType::kF16 && p.out_type != WeightType::kBF16)
    return refuse("output of type %d; expected F32, F16 or BF16", static_cast<int>(p.out_type));
  const dev::Grid grid{(p.elements + 8 * kThreads - 1) / (8 * kThreads), 1};
  return DEV_LAUNCH(weight_sum_kernel, grid, kThreads, 0, stream, p);
}

}  // namespace galvani::gpu
