// The export list. Mirrored by the Native interface of lib/native.ts, row by row.
//
//   task.cc        CancelFlag                    cancels a running task
//   checkpoint.cc  NativeCheckpoint              names, info, read, raw, files, path, bytes, metadata, release
//                  openCheckpoint(path), writeSafetensors(path, tensors, metadata?)
//   engine.cc      NativeEngine                  addModel, removeModel, run, threads
//   weights.cc     compareWeights, identicalTensors, singularValues
//   merge.cc       writeMerged, writeLowRank, mergeMethods
//   blend.cc       blend
//   ops.cc         NativeOps                     matmul, attention, mropeTable, visionRopeTable (tests, benches)
//   device.cc      cpuInfo(), cudaStatus(library?)
#include "bindings/addon.h"

namespace galvani {
namespace {

Napi::Object init(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new AddonState());  // deleted with the environment
  init_tasks(env, exports);
  init_checkpoint(env, exports);
  init_engine(env, exports);
  init_weights(env, exports);
  init_merge(env, exports);
  init_blend(env, exports);
  init_ops(env, exports);
  init_device(env, exports);
  return exports;
}

}  // namespace
}  // namespace galvani

static Napi::Object galvani_init(Napi::Env env, Napi::Object exports) { return galvani::init(env, exports); }
NODE_API_MODULE(galvani, galvani_init)
