#include <cmath>

#include "core/status.h"
#include "ops/combine_kernels.h"
#include "weights/merge.h"

namespace galvani {
namespace {

// To the nearest value of a small format by counting its spacings: the spacing at |value| is 2^(exponent − mantissa
// bits), never below that of the subnormals, and nearbyint breaks ties to even.
uint8_t to_f8(float value, int mantissa_bits, int bias, float largest, uint8_t above, uint8_t nan) {
  const uint8_t sign = std::signbit(value) ? 0x80 : 0;
  if (std::isnan(value)) return sign | nan;
  const float size = std::fabs(value);
  if (size == 0) return sign;
  if (std::isinf(value)) return sign | above;
  int exponent = 0;
  std::frexp(size, &exponent);  // size in [2^(exponent − 1), 2^exponent)
  const int lowest = 1 - bias, binade = std::max(exponent - 1, lowest);
  const float steps = std::nearbyint(std::ldexp(size, mantissa_bits - binade));
  const float rounded = std::ldexp(steps, binade - mantissa_bits);
  if (rounded > largest) return sign | above;
  // `steps` counts from 2^mantissa_bits in a normal binade, so adding it to the binade's code carries by itself.
  const int code = ((binade - lowest) << mantissa_bits) + static_cast<int>(steps);
  return sign | static_cast<uint8_t>(code);
}

}  // namespace

void narrow(const float* from, int64_t count, DType dtype, void* to) {
  switch (dtype) {
    case DType::kF32:
      std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
      return;
    case DType::kBF16:
      combine_kernels().narrow_bf16(from, count, static_cast<uint16_t*>(to));
      return;
    case DType::kF16:
      combine_kernels().narrow_f16(from, count, static_cast<uint16_t*>(to));
      return;
    case DType::kF64:
      for (int64_t i = 0; i < count; ++i) static_cast<double*>(to)[i] = from[i];
      return;
    case DType::kF8E4M3:  // saturates: the format has no infinity
      for (int64_t i = 0; i < count; ++i) static_cast<uint8_t*>(to)[i] = to_f8(from[i], 3, 7, 448.0f, 0x7e, 0x7f);
      return;
    case DType::kF8E5M2:
      for (int64_t i = 0; i < count; ++i) static_cast<uint8_t*>(to)[i] = to_f8(from[i], 2, 15, 57344.0f, 0x7c, 0x7e);
      return;
    default:
      throw Error(Code::kUnsupported, std::string("cannot store merged values as ") + dtype_name(dtype));
  }
}

}  // namespace galvani
