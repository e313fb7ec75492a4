// What the binding files share: their entry points and the state of one JavaScript environment. The addon is loaded
// once per environment (main thread, each worker), so nothing that belongs to JavaScript may be a global.
#pragma once
#include <napi.h>

#include <map>
#include <memory>
#include <string>

#include "io/safetensors.h"

namespace galvani {

struct AddonState {
  std::map<std::string, Napi::FunctionReference> classes;  // constructors, by exported name
  std::shared_ptr<Checkpoint> made;                        // on its way into a NativeCheckpoint (wrap_checkpoint)
};
inline AddonState& state_of(Napi::Env env) { return *env.GetInstanceData<AddonState>(); }

// Exports a class and remembers its constructor, so that C++ can make instances.
inline void export_class(Napi::Env env, Napi::Object exports, const char* name, Napi::Function constructor) {
  state_of(env).classes[name] = Napi::Persistent(constructor);
  exports.Set(name, constructor);
}

void init_tasks(Napi::Env env, Napi::Object exports);       // task.cc
void init_checkpoint(Napi::Env env, Napi::Object exports);  // checkpoint.cc
void init_weights(Napi::Env env, Napi::Object exports);     // weights.cc
void init_merge(Napi::Env env, Napi::Object exports);       // merge.cc
void init_blend(Napi::Env env, Napi::Object exports);       // blend.cc
void init_engine(Napi::Env env, Napi::Object exports);      // engine.cc
void init_ops(Napi::Env env, Napi::Object exports);         // ops.cc
void init_device(Napi::Env env, Napi::Object exports);      // device.cc

// The checkpoint inside a NativeCheckpoint; BAD_ARGUMENT for any other value, CLOSED for a released one.
std::shared_ptr<Checkpoint> checkpoint_of(Napi::Value value);
// The other way round.
Napi::Value wrap_checkpoint(Napi::Env env, std::shared_ptr<Checkpoint> checkpoint);

}  // namespace galvani
