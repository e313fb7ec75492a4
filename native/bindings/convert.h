// JavaScript values ⇄ C++ values, with BAD_ARGUMENT errors that name the call and the field.
// TypeScript has validated before; here is what memory safety needs.
#pragma once
#include <napi.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "core/status.h"

namespace galvani {

[[noreturn]] inline void bad_argument(const std::string& where, const char* expected) {
  throw Error(Code::kBadArgument, where + ": expected " + expected);
}

inline std::string to_string(Napi::Value value, const std::string& where) {
  if (!value.IsString()) bad_argument(where, "a string");
  return value.As<Napi::String>().Utf8Value();
}
inline bool to_bool(Napi::Value value, const std::string& where) {
  if (!value.IsBoolean()) bad_argument(where, "a boolean");
  return value.As<Napi::Boolean>().Value();
}
inline double to_double(Napi::Value value, const std::string& where) {
  if (!value.IsNumber()) bad_argument(where, "a number");
  return value.As<Napi::Number>().DoubleValue();
}
inline int64_t to_int(Napi::Value value, const std::string& where) {
  const double number = to_double(value, where);
  if (!(std::fabs(number) <= 9007199254740991.0) || number != std::floor(number)) bad_argument(where, "an integer");
  return static_cast<int64_t>(number);
}
inline int32_t to_int32_number(Napi::Value value, const std::string& where) {
  const int64_t number = to_int(value, where);
  if (number < INT32_MIN || number > INT32_MAX) bad_argument(where, "a 32-bit integer");
  return static_cast<int32_t>(number);
}
inline Napi::Object to_object(Napi::Value value, const std::string& where) {
  if (!value.IsObject()) bad_argument(where, "an object");
  return value.As<Napi::Object>();
}
inline Napi::Array to_array(Napi::Value value, const std::string& where) {
  if (!value.IsArray()) bad_argument(where, "an array");
  return value.As<Napi::Array>();
}
// Views of the caller's memory: valid while the value is (copy before leaving the JavaScript thread).
inline Napi::Float32Array to_float32(Napi::Value value, const std::string& where) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_float32_array)
    bad_argument(where, "a Float32Array");
  return value.As<Napi::Float32Array>();
}
inline Napi::Int32Array to_int32(Napi::Value value, const std::string& where) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_int32_array)
    bad_argument(where, "an Int32Array");
  return value.As<Napi::Int32Array>();
}
inline Napi::Uint8Array to_uint8(Napi::Value value, const std::string& where) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
    bad_argument(where, "a Uint8Array");
  return value.As<Napi::Uint8Array>();
}

template <class Convert>
auto to_vector(Napi::Value value, const std::string& where, Convert&& convert) {
  const Napi::Array array = to_array(value, where);
  std::vector<decltype(convert(value, where))> out;
  out.reserve(std::min<uint32_t>(array.Length(), 4096));  // a sparse array may claim 2^32 − 1
  for (uint32_t i = 0; i < array.Length(); ++i) {
    const Napi::HandleScope scope(value.Env());
    out.push_back(convert(array.Get(i), where + "[" + std::to_string(i) + "]"));
  }
  return out;
}
inline std::vector<std::string> to_strings(Napi::Value value, const std::string& where) {
  return to_vector(value, where, [](Napi::Value v, const std::string& w) { return to_string(v, w); });
}
inline std::vector<int64_t> to_ints(Napi::Value value, const std::string& where) {
  return to_vector(value, where, [](Napi::Value v, const std::string& w) { return to_int(v, w); });
}
inline std::map<std::string, std::string> to_string_map(Napi::Value value, const std::string& where) {
  const Napi::Object object = to_object(value, where);
  std::map<std::string, std::string> out;
  for (const std::string& key : to_strings(object.GetPropertyNames(), where))
    out[key] = to_string(object.Get(key), where + "." + key);
  return out;
}

// The fields of an options object. where() is what messages open with, e.g. "openEngine: options".
class Fields {
 public:
  Fields(Napi::Value value, std::string where) : where_(std::move(where)), object_(to_object(value, where_)) {}

  Napi::Value value(const char* name) const { return object_.Get(name); }
  bool has(const char* name) const { return !value(name).IsUndefined(); }
  std::string where(const char* name) const { return where_ + "." + name; }

  std::string string(const char* name) const { return to_string(value(name), where(name)); }
  bool boolean(const char* name) const { return to_bool(value(name), where(name)); }
  double number(const char* name) const { return to_double(value(name), where(name)); }
  int64_t integer(const char* name) const { return to_int(value(name), where(name)); }
  int32_t small(const char* name) const { return to_int32_number(value(name), where(name)); }
  Fields fields(const char* name) const { return Fields(value(name), where(name)); }
  Napi::Array array(const char* name) const { return to_array(value(name), where(name)); }
  Napi::Float32Array float32(const char* name) const { return to_float32(value(name), where(name)); }
  Napi::Int32Array int32(const char* name) const { return to_int32(value(name), where(name)); }
  std::vector<int64_t> integers(const char* name) const { return to_ints(value(name), where(name)); }
  std::vector<std::string> strings(const char* name) const { return to_strings(value(name), where(name)); }

  // The same with a default for an absent field.
  std::string string(const char* name, const std::string& fallback) const {
    return has(name) ? string(name) : fallback;
  }
  bool boolean(const char* name, bool fallback) const { return has(name) ? boolean(name) : fallback; }
  double number(const char* name, double fallback) const { return has(name) ? number(name) : fallback; }
  int64_t integer(const char* name, int64_t fallback) const { return has(name) ? integer(name) : fallback; }
  int32_t small(const char* name, int32_t fallback) const { return has(name) ? small(name) : fallback; }

 private:
  std::string where_;
  Napi::Object object_;
};

inline Napi::Array js_array(Napi::Env env, const std::vector<std::string>& values) {
  Napi::Array out = Napi::Array::New(env, values.size());
  for (size_t i = 0; i < values.size(); ++i) out.Set(static_cast<uint32_t>(i), Napi::String::New(env, values[i]));
  return out;
}
template <class Number>
Napi::Array js_numbers(Napi::Env env, const std::vector<Number>& values) {
  Napi::Array out = Napi::Array::New(env, values.size());
  for (size_t i = 0; i < values.size(); ++i)
    out.Set(static_cast<uint32_t>(i), Napi::Number::New(env, static_cast<double>(values[i])));
  return out;
}
inline Napi::Object js_object(Napi::Env env, const std::map<std::string, std::string>& values) {
  Napi::Object out = Napi::Object::New(env);
  for (const auto& [key, value] : values) out.Set(key, Napi::String::New(env, value));
  return out;
}
// A Float32Array that owns a copy of the values.
inline Napi::Float32Array js_float32(Napi::Env env, const float* values, size_t count) {
  Napi::Float32Array out = Napi::Float32Array::New(env, count);
  if (count) std::memcpy(out.Data(), values, count * sizeof(float));
  return out;
}

}  // namespace galvani
