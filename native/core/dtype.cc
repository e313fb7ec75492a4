#include "core/dtype.h"

#include <cmath>
#include <limits>

#include "core/status.h"

namespace galvani {
namespace {

struct Row {
  DType dtype;
  const char* name;
  int64_t size;
};
constexpr Row kTable[] = {
    {DType::kF64, "F64", 8}, {DType::kF32, "F32", 4},         {DType::kF16, "F16", 2},         {DType::kBF16, "BF16", 2},
    {DType::kF8E4M3, "F8_E4M3", 1}, {DType::kF8E5M2, "F8_E5M2", 1}, {DType::kF8E4M3Fnuz, "F8_E4M3FNUZ", 1},
    {DType::kF8E5M2Fnuz, "F8_E5M2FNUZ", 1}, {DType::kF8E8M0, "F8_E8M0", 1}, {DType::kI64, "I64", 8}, {DType::kI32, "I32", 4},
    {DType::kI16, "I16", 2}, {DType::kI8, "I8", 1},           {DType::kU64, "U64", 8},         {DType::kU32, "U32", 4},
    {DType::kU16, "U16", 2}, {DType::kU8, "U8", 1},           {DType::kBool, "BOOL", 1},
};

}  // namespace

int64_t dtype_size(DType dtype) { return kTable[static_cast<int>(dtype)].size; }
const char* dtype_name(DType dtype) { return kTable[static_cast<int>(dtype)].name; }
std::optional<DType> parse_dtype(std::string_view name) {
  for (const Row& row : kTable)
    if (name == row.name) return row.dtype;
  return std::nullopt;
}

uint16_t float_to_bf16(float value) {
  const uint32_t bits = float_to_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40);  // keep NaN quiet
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

float f16_to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t exponent = (bits >> 10) & 31, mantissa = bits & 1023;
  if (exponent == 0) return bits_to_float(sign | float_to_bits(std::ldexp(static_cast<float>(mantissa), -24)));
  if (exponent == 31) return bits_to_float(sign | 0x7f800000u | (mantissa << 13));
  return bits_to_float(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

uint16_t float_to_f16(float value) {
  const uint32_t bits = float_to_bits(value), magnitude = bits & 0x7fffffffu;
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  if (magnitude > 0x7f800000u) return sign | 0x7e00;
  if (magnitude >= 0x477ff000u) return sign | 0x7c00;  // rounds past the largest half, 65504
  if (magnitude < 0x38800000u) {                       // subnormal half: round in units of 2^-24
    const float scaled = std::ldexp(bits_to_float(magnitude), 24);
    return sign | static_cast<uint16_t>(std::nearbyint(scaled));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1);
  return sign | static_cast<uint16_t>((rounded >> 13) - (112u << 10));
}

float f8e4m3_to_float(uint8_t bits) {  // the "fn" form: no infinities, S.1111.111 is NaN
  const int exponent = (bits >> 3) & 15, mantissa = bits & 7;
  if (exponent == 15 && mantissa == 7) return std::numeric_limits<float>::quiet_NaN();
  const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                        : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return bits & 0x80 ? -magnitude : magnitude;
}

float f8e5m2_to_float(uint8_t bits) { return f16_to_float(static_cast<uint16_t>(bits << 8)); }

float f8e4m3fnuz_to_float(uint8_t bits) {
  if (bits == 0x80) return std::numeric_limits<float>::quiet_NaN();
  const int exponent = (bits >> 3) & 15, mantissa = bits & 7;
  const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -10)
                                        : std::ldexp(static_cast<float>(8 + mantissa), exponent - 11);
  return bits & 0x80 ? -magnitude : magnitude;
}

float f8e5m2fnuz_to_float(uint8_t bits) {
  if (bits == 0x80) return std::numeric_limits<float>::quiet_NaN();
  const int exponent = (bits >> 2) & 31, mantissa = bits & 3;
  const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -17)
                                        : std::ldexp(static_cast<float>(4 + mantissa), exponent - 18);
  return bits & 0x80 ? -magnitude : magnitude;
}

float f8e8m0_to_float(uint8_t bits) {
  return bits == 0xff ? std::numeric_limits<float>::quiet_NaN() : std::ldexp(1.0f, bits - 127);
}

bool is_float(DType dtype) { return static_cast<int>(dtype) <= static_cast<int>(DType::kF8E8M0); }

float load_float(const void* data, DType dtype, int64_t index) {
  const auto* bytes = static_cast<const unsigned char*>(data) + index * dtype_size(dtype);
  auto read = [&](auto zero) {
    std::memcpy(&zero, bytes, sizeof zero);
    return zero;
  };
  switch (dtype) {
    case DType::kF64: return static_cast<float>(read(0.0));
    case DType::kF32: return read(0.0f);
    case DType::kF16: return f16_to_float(read(uint16_t{}));
    case DType::kBF16: return bf16_to_float(read(uint16_t{}));
    case DType::kF8E4M3: return f8e4m3_to_float(*bytes);
    case DType::kF8E5M2: return f8e5m2_to_float(*bytes);
    case DType::kF8E4M3Fnuz: return f8e4m3fnuz_to_float(*bytes);
    case DType::kF8E5M2Fnuz: return f8e5m2fnuz_to_float(*bytes);
    case DType::kF8E8M0: return f8e8m0_to_float(*bytes);
    default: throw Error(Code::kUnsupported, std::string("load_float: not a float dtype: ") + dtype_name(dtype));
  }
}

}  // namespace galvani
