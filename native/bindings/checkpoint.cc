// JavaScript's view of a checkpoint: names, shapes, and values for tests and analysis. The engine and the weight
// comparison take the NativeCheckpoint itself and read the mapped bytes.
#include "bindings/addon.h"
#include "bindings/convert.h"
#include "bindings/task.h"
#include "io/safetensors.h"

namespace galvani {
namespace {

constexpr napi_type_tag kCheckpointTag = {0x2f7a1f4f8f3b4c55, 0xa4c2d0b19e6f4e02};

class NativeCheckpoint : public Napi::ObjectWrap<NativeCheckpoint> {
 public:
  static void define(Napi::Env env, Napi::Object exports) {
    using C = NativeCheckpoint;
    export_class(env, exports, "NativeCheckpoint",
                 DefineClass(env, "NativeCheckpoint",
                             {InstanceMethod<&C::names>("names", napi_default_method),
                              InstanceMethod<&C::info>("info", napi_default_method),
                              InstanceMethod<&C::read>("read", napi_default_method),
                              InstanceMethod<&C::raw>("raw", napi_default_method),
                              InstanceMethod<&C::files>("files", napi_default_method),
                              InstanceMethod<&C::metadata>("metadata", napi_default_method),
                              InstanceMethod<&C::release>("release", napi_default_method),
                              InstanceAccessor<&C::path>("path"), InstanceAccessor<&C::bytes>("bytes")}));
  }
  explicit NativeCheckpoint(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    guarded(info.Env(), [&] {
      std::shared_ptr<Checkpoint> made = std::move(state_of(info.Env()).made);
      checkpoint_ = made ? made : Checkpoint::open(to_string(info[0], "openCheckpoint: path"));
    });
    info.This().As<Napi::Object>().TypeTag(&kCheckpointTag);
  }
  const std::shared_ptr<Checkpoint>& checkpoint() const {
    if (!checkpoint_) throw Error(Code::kClosed, "this checkpoint was released");
    return checkpoint_;
  }

 private:
  template <class Get>
  Napi::Value got(const Napi::CallbackInfo& info, Get&& get) {
    return guarded(info.Env(), [&]() -> Napi::Value { return get(info.Env(), *checkpoint()); });
  }
  Napi::Value names(const Napi::CallbackInfo& info) {
    return got(info, [](Napi::Env env, const Checkpoint& from) { return js_array(env, from.names()); });
  }
  Napi::Value files(const Napi::CallbackInfo& info) {
    return got(info, [](Napi::Env env, const Checkpoint& from) { return js_array(env, from.files()); });
  }
  Napi::Value metadata(const Napi::CallbackInfo& info) {
    return got(info, [](Napi::Env env, const Checkpoint& from) { return js_object(env, from.metadata()); });
  }
  Napi::Value path(const Napi::CallbackInfo& info) {
    return got(info, [](Napi::Env env, const Checkpoint& from) { return Napi::String::New(env, from.path()); });
  }
  Napi::Value bytes(const Napi::CallbackInfo& info) {
    return got(info, [](Napi::Env env, const Checkpoint& from) {
      return Napi::Number::New(env, static_cast<double>(from.bytes()));
    });
  }
  // Memory is freed when the last model and task that use it end, not when this object is collected.
  Napi::Value release(const Napi::CallbackInfo& info) {
    checkpoint_.reset();
    return info.Env().Undefined();
  }

  Napi::Value info(const Napi::CallbackInfo& call) {
    return guarded(call.Env(), [&] {
      const std::string name = to_string(call[0], "info: name");
      const TensorView& view = checkpoint()->at(name);
      Napi::Object out = describe(call.Env(), view);
      out.Set("bytes", static_cast<double>(view.bytes()));
      out.Set("file", checkpoint()->file_of(name));
      return out;
    });
  }

  // Values widened to float32 (F64 is rounded); integer tensors are UNSUPPORTED.
  Napi::Value read(const Napi::CallbackInfo& call) {
    return guarded(call.Env(), [&] {
      const TensorView& view = checkpoint()->at(to_string(call[0], "read: name"));
      if (!is_float(view.dtype))
        throw Error(Code::kUnsupported, checkpoint_->path() + ": read: not a float tensor: " + dtype_name(view.dtype));
      const int64_t count = view.elements();
      Napi::Float32Array data = Napi::Float32Array::New(call.Env(), static_cast<size_t>(count));
      float* to = data.Data();
      for (int64_t i = 0; i < count; ++i) to[i] = load_float(view.data, view.dtype, i);
      Napi::Object out = describe(call.Env(), view);
      out.Set("data", data);
      return out;
    });
  }

  // The stored bytes, copied.
  Napi::Value raw(const Napi::CallbackInfo& call) {
    return guarded(call.Env(), [&] {
      const TensorView& view = checkpoint()->at(to_string(call[0], "raw: name"));
      const auto count = static_cast<size_t>(view.bytes());
      Napi::Uint8Array out = Napi::Uint8Array::New(call.Env(), count);
      if (count) std::memcpy(out.Data(), view.data, count);
      return out;
    });
  }

  static Napi::Object describe(Napi::Env env, const TensorView& view) {
    Napi::Object out = Napi::Object::New(env);
    out.Set("dtype", dtype_name(view.dtype));
    out.Set("shape", js_numbers(env, view.shape));
    return out;
  }

  std::shared_ptr<Checkpoint> checkpoint_;
};

Napi::Value open_checkpoint(const Napi::CallbackInfo& info) {
  return state_of(info.Env()).classes.at("NativeCheckpoint").New({info[0]});
}

// writeSafetensors(path, [{name, dtype, shape, data: Uint8Array}], metadata?)
Napi::Value write_safetensors(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const std::string where = "writeSafetensors: tensors";
    SafetensorsWriter writer(to_string(info[0], "writeSafetensors: path"),
                             info[2].IsUndefined() ? std::map<std::string, std::string>{}
                                                   : to_string_map(info[2], "writeSafetensors: metadata"));
    const Napi::Array tensors = to_array(info[1], where);
    for (const bool declare : {true, false}) {
      for (uint32_t i = 0; i < tensors.Length(); ++i) {
        const Napi::HandleScope scope(info.Env());
        const Fields fields(tensors.Get(i), where + "[" + std::to_string(i) + "]");
        if (declare) {
          const auto dtype = parse_dtype(fields.string("dtype"));
          if (!dtype) bad_argument(fields.where("dtype"), "a safetensors dtype");
          writer.declare(fields.string("name"), *dtype, fields.integers("shape"));
        } else {
          const Napi::Uint8Array data = to_uint8(fields.value("data"), fields.where("data"));
          writer.write(fields.string("name"), data.Data(), static_cast<int64_t>(data.ByteLength()));
        }
      }
    }
    writer.finish();
    return info.Env().Undefined();
  });
}

}  // namespace

std::shared_ptr<Checkpoint> checkpoint_of(Napi::Value value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&kCheckpointTag))
    throw Error(Code::kBadArgument, "expected a NativeCheckpoint");
  return NativeCheckpoint::Unwrap(value.As<Napi::Object>())->checkpoint();
}

Napi::Value wrap_checkpoint(Napi::Env env, std::shared_ptr<Checkpoint> checkpoint) {
  state_of(env).made = std::move(checkpoint);
  return state_of(env).classes.at("NativeCheckpoint").New({});
}

void init_checkpoint(Napi::Env env, Napi::Object exports) {
  NativeCheckpoint::define(env, exports);
  exports.Set("openCheckpoint", Napi::Function::New(env, open_checkpoint, "openCheckpoint"));
  exports.Set("writeSafetensors", Napi::Function::New(env, write_safetensors, "writeSafetensors"));
}

}  // namespace galvani
