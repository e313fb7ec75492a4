// blend({what, checkpoints, tensors: [{name, from, to}], alpha, threads}, task)
//     → Promise<{checkpoint: NativeCheckpoint, equal: string[]}>
// A tensor's from and to are [index into checkpoints, tensor name].
#include "weights/blend.h"

#include "bindings/addon.h"
#include "bindings/convert.h"
#include "bindings/task.h"

namespace galvani {
namespace {

using Checkpoints = std::vector<std::shared_ptr<Checkpoint>>;

std::pair<std::shared_ptr<const Checkpoint>, std::string> to_place(const Fields& fields, const char* name,
                                                                   const Checkpoints& checkpoints) {
  const Napi::Array pair = fields.array(name);
  const int64_t index = to_int(pair.Get(0u), fields.where(name) + "[0]");
  if (index < 0 || index >= static_cast<int64_t>(checkpoints.size()))
    bad_argument(fields.where(name) + "[0]", "an index into checkpoints");
  return {checkpoints[static_cast<size_t>(index)], to_string(pair.Get(1u), fields.where(name) + "[1]")};
}

Napi::Value blend_call(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const Fields fields(info[0], "blend");
    const std::string what = fields.string("what");
    const auto checkpoints = to_vector(fields.value("checkpoints"), fields.where("checkpoints"),
                                       [](Napi::Value one, const std::string&) { return checkpoint_of(one); });
    const auto tensors =
        to_vector(fields.value("tensors"), fields.where("tensors"), [&](Napi::Value one, const std::string& where) {
          const Fields tensor(one, where);
          const auto [a, a_name] = to_place(tensor, "from", checkpoints);
          const auto [b, b_name] = to_place(tensor, "to", checkpoints);
          return BlendTensor{tensor.string("name"), a, b, a_name, b_name};
        });
    const double alpha = fields.number("alpha");
    const int64_t threads = fields.integer("threads", 0);
    if (threads < 0 || threads > 1024) bad_argument(fields.where("threads"), "0 to 1024");
    return run_task<Blend>(
        info.Env(), info[1],
        [=](Progress& progress) {
          ThreadPool pool(static_cast<int>(threads));
          return blend(
              what, tensors, alpha, pool, [&](int64_t done, int64_t total) { progress.step(done, total); },
              [&] { progress.check(); });
        },
        [](Napi::Env env, Blend& made) -> Napi::Value {
          Napi::Object out = Napi::Object::New(env);
          out.Set("checkpoint", wrap_checkpoint(env, std::move(made.checkpoint)));
          out.Set("equal", js_array(env, made.equal));
          return out;
        });
  });
}

}  // namespace

void init_blend(Napi::Env env, Napi::Object exports) {
  exports.Set("blend", Napi::Function::New(env, blend_call, "blend"));
}

}  // namespace galvani
