// Element types of stored tensors, and scalar widening. Activations on the CPU are float32; weights stay as stored.
#pragma once
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>

namespace galvani {

enum class DType : uint8_t {
  kF64, kF32, kF16, kBF16, kF8E4M3, kF8E5M2, kF8E4M3Fnuz, kF8E5M2Fnuz, kF8E8M0,  // float types first
  kI64, kI32, kI16, kI8, kU64, kU32, kU16, kU8, kBool
};

// Bytes of one element.
int64_t dtype_size(DType dtype);
// The safetensors spelling, e.g. "BF16".
const char* dtype_name(DType dtype);
std::optional<DType> parse_dtype(std::string_view name);

inline float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline float bf16_to_float(uint16_t bits) { return bits_to_float(static_cast<uint32_t>(bits) << 16); }
// Round to nearest, ties to even; NaN stays NaN.
uint16_t float_to_bf16(float value);
float f16_to_float(uint16_t bits);
uint16_t float_to_f16(float value);
float f8e4m3_to_float(uint8_t bits);
float f8e5m2_to_float(uint8_t bits);
// The "fnuz" forms: no infinities, no negative zero, 0x80 is NaN, exponent bias one larger than the OCP forms'.
float f8e4m3fnuz_to_float(uint8_t bits);
float f8e5m2fnuz_to_float(uint8_t bits);
// A power of two, 2^(bits − 127); 0xff is NaN. The scale type of microscaling formats.
float f8e8m0_to_float(uint8_t bits);

// One element of a float tensor as float32 (kF64 is rounded). Integer dtypes are a caller's bug.
float load_float(const void* data, DType dtype, int64_t index);
bool is_float(DType dtype);

}  // namespace galvani
