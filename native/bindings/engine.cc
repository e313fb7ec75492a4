// NativeEngine: models as tables of views, and run(request) → Promise<response>. Field names are those of
// lib/native.ts.
#include "model/engine.h"

#include <memory>
#include <mutex>

#include "bindings/addon.h"
#include "bindings/convert.h"
#include "bindings/task.h"

namespace galvani {
namespace {

std::vector<int32_t> to_small_ints(Napi::Value value, const std::string& where) {
  std::vector<int32_t> out;
  for (int64_t v : to_ints(value, where)) {
    if (v < std::numeric_limits<int32_t>::min() || v > std::numeric_limits<int32_t>::max())
      bad_argument(where, "32-bit integers");
    out.push_back(static_cast<int32_t>(v));
  }
  return out;
}

// Sizes beyond these are no model's; their products stay far below 2^63.
constexpr int32_t kMaxSize = 1 << 24, kMaxLayers = 1 << 16;

void check_size(const Fields& f, const char* name, int64_t value, int32_t most) {
  if (value < 1 || value > most)
    throw Error(Code::kBadArgument, f.where(name) + ": expected a number from 1 to " + std::to_string(most) + ", got " +
                                        std::to_string(value));
}
void check_positive(const Fields& f, const char* name, float value) {
  if (!(value > 0.0f) || !std::isfinite(value))
    throw Error(Code::kBadArgument, f.where(name) + ": expected a finite number > 0, got " + std::to_string(value));
}

DecoderConfig to_decoder(const Fields& f) {
  DecoderConfig c;
  c.layers = f.small("layers");
  c.width = f.small("width");
  c.heads = f.small("heads");
  c.kv_heads = f.small("kvHeads");
  c.head_dim = f.small("headDim");
  c.mlp_width = f.small("mlpWidth");
  c.vocab = f.small("vocab");
  c.rms_eps = static_cast<float>(f.number("rmsEps"));
  c.rope_theta = static_cast<float>(f.number("ropeTheta"));
  const std::vector<int32_t> section = to_small_ints(f.value("mropeSection"), f.where("mropeSection"));
  if (section.size() != 3) bad_argument(f.where("mropeSection"), "three numbers");
  std::copy(section.begin(), section.end(), c.mrope_section.begin());
  check_size(f, "layers", c.layers, kMaxLayers);
  check_size(f, "width", c.width, kMaxSize);
  check_size(f, "heads", c.heads, kMaxSize);
  check_size(f, "kvHeads", c.kv_heads, kMaxSize);
  check_size(f, "headDim", c.head_dim, kMaxSize);
  check_size(f, "mlpWidth", c.mlp_width, kMaxSize);
  check_size(f, "vocab", c.vocab, kMaxSize);
  check_size(f, "heads · headDim", int64_t{c.heads} * c.head_dim, kMaxSize);
  check_positive(f, "rmsEps", c.rms_eps);
  check_positive(f, "ropeTheta", c.rope_theta);
  if (c.heads % c.kv_heads) bad_argument(f.where("kvHeads"), "a divisor of heads");
  int64_t turned = 0;
  for (int32_t part : c.mrope_section) {
    if (part < 0) bad_argument(f.where("mropeSection"), "numbers ≥ 0");
    turned += part;
  }
  if (c.head_dim % 2 || turned != c.head_dim / 2)
    bad_argument(f.where("mropeSection"), "sections that sum to headDim / 2");
  return c;
}

VisionConfig to_vision(const Fields& f, const DecoderConfig& decoder) {
  VisionConfig c;
  c.layers = f.small("layers");
  c.width = f.small("width");
  c.heads = f.small("heads");
  c.mlp_width = f.small("mlpWidth");
  c.patch_dim = f.small("patchDim");
  c.patch_size = f.small("patchSize");
  c.merge_size = f.small("mergeSize");
  c.window_size = f.small("windowSize");
  c.out_width = f.small("outWidth");
  c.rms_eps = static_cast<float>(f.number("rmsEps"));
  c.full_attention_layers = to_small_ints(f.value("fullAttentionLayers"), f.where("fullAttentionLayers"));
  check_size(f, "layers", c.layers, kMaxLayers);
  check_size(f, "width", c.width, kMaxSize);
  check_size(f, "heads", c.heads, kMaxSize);
  check_size(f, "mlpWidth", c.mlp_width, kMaxSize);
  check_size(f, "patchDim", c.patch_dim, kMaxSize);
  check_size(f, "patchSize", c.patch_size, kMaxSize);
  check_size(f, "mergeSize", c.merge_size, 1 << 10);
  check_size(f, "windowSize", c.window_size, kMaxSize);
  check_size(f, "width · mergeSize²", int64_t{c.width} * c.merge_size * c.merge_size, kMaxSize);
  check_positive(f, "rmsEps", c.rms_eps);
  if (c.width % c.heads || c.width / c.heads % 4)
    bad_argument(f.where("heads"), "heads whose dimension is a multiple of 4");
  if (c.window_size / c.merge_size / c.patch_size < 1) bad_argument(f.where("windowSize"), "at least one merged patch");
  if (c.out_width != decoder.width) bad_argument(f.where("outWidth"), "the decoder's width");
  return c;
}

RowRange to_range(Napi::Value value, const std::string& where) {
  const std::vector<int64_t> pair = to_ints(value, where);
  if (pair.size() != 2) bad_argument(where, "[start, end]");
  if (pair[0] < 0 || pair[0] > kOpenEnd || pair[1] < -1 || pair[1] > kOpenEnd)
    bad_argument(where, "rows within 31 bits");
  return {static_cast<int32_t>(pair[0]), pair[1] < 0 ? kOpenEnd : static_cast<int32_t>(pair[1])};
}

EditOp to_op(const std::string& name, const std::string& where) {
  static const std::pair<const char*, EditOp> table[] = {
      {"zero", EditOp::kZero},         {"mean", EditOp::kMean},      {"resample", EditOp::kResample},
      {"patch", EditOp::kPatch},       {"add", EditOp::kAdd},        {"scale", EditOp::kScale},
      {"knockout", EditOp::kKnockout}, {"capture", EditOp::kCapture}};
  for (const auto& [text, op] : table)
    if (name == text) return op;
  bad_argument(where, "zero, mean, resample, patch, add, scale, knockout or capture");
}

Measure to_measure(const std::string& name, const std::string& where) {
  static const std::pair<const char*, Measure> table[] = {
      {"value", Measure::kValue},    {"mass", Measure::kMass},       {"entropy", Measure::kEntropy},
      {"lse", Measure::kLse},        {"keyMass", Measure::kKeyMass}, {"topKeys", Measure::kTopKeys},
      {"pattern", Measure::kPattern}};
  for (const auto& [text, measure] : table)
    if (name == text) return measure;
  bad_argument(where, "value, mass, entropy, lse, keyMass, topKeys or pattern");
}

Edit to_edit(Napi::Value value, const std::string& where) {
  const Fields f(value, where);
  Edit e;
  const auto site = parse_site(f.string("site"));
  if (!site) bad_argument(f.where("site"), "a hook site");
  e.site = *site;
  e.op = to_op(f.string("op"), f.where("op"));
  const std::string tower = f.string("tower", "decoder");
  if (tower != "decoder" && tower != "vision" && tower != "projector")
    bad_argument(f.where("tower"), "decoder, vision or projector");
  e.tower = tower == "decoder" ? Tower::kDecoder : tower == "vision" ? Tower::kVision : Tower::kProjector;
  e.layers = to_small_ints(f.value("layers"), f.where("layers"));
  if (f.has("heads")) {
    e.heads = to_small_ints(f.value("heads"), f.where("heads"));
    if (e.heads.empty()) bad_argument(f.where("heads"), "at least one head; leave it out for all");
  }
  e.rows = to_vector(f.value("rows"), f.where("rows"), to_range);
  if (f.has("keys")) {
    e.keys = to_vector(f.value("keys"), f.where("keys"),
                       [](Napi::Value v, const std::string& w) { return to_vector(v, w, to_range); });
    if (e.keys.empty()) bad_argument(f.where("keys"), "at least one key span; leave it out for all keys");
  }
  if (f.has("vector")) {
    const Napi::Float32Array data = f.float32("vector");
    e.vector = std::make_shared<const std::vector<float>>(data.Data(), data.Data() + data.ElementLength());
  }
  e.scalar = static_cast<float>(f.number("scalar", 0.0));
  e.source = f.small("source", -1);
  if (e.source < -1) bad_argument(f.where("source"), "a trial's index, or -1 for none");
  if (f.has("sourceRows")) e.source_rows = to_vector(f.value("sourceRows"), f.where("sourceRows"), to_range);
  e.seed = static_cast<uint64_t>(f.integer("seed", 0));
  e.prefill = f.boolean("prefill", true);
  e.decode = f.boolean("decode", true);
  e.measure = to_measure(f.string("measure", "value"), f.where("measure"));
  e.top_k = f.small("k", 0);
  e.capture = f.small("capture", -1);
  return e;
}

using Models = std::map<std::string, std::shared_ptr<const Model>>;

TrialInput to_trial(Napi::Value value, const std::string& where, const Models& models) {
  const Fields f(value, where);
  TrialInput t;
  t.prompt = f.small("prompt");
  const auto model = models.find(f.string("model"));
  if (model == models.end()) bad_argument(f.where("model"), "the name of an added model");
  t.model = model->second;
  t.edits = to_vector(f.value("edits"), f.where("edits"), to_edit);
  t.captures = f.small("captures", 0);
  t.max_tokens = f.small("maxTokens", 0);
  t.sampling.temperature = static_cast<float>(f.number("temperature", 0.0));
  t.sampling.top_k = f.small("topK", 0);
  t.sampling.top_p = static_cast<float>(f.number("topP", 1.0));
  t.seed = static_cast<uint64_t>(f.integer("seed", 0));
  if (f.has("stopTokens")) t.stop_tokens = to_small_ints(f.value("stopTokens"), f.where("stopTokens"));
  if (f.has("scoreTokens")) t.score_tokens = to_small_ints(f.value("scoreTokens"), f.where("scoreTokens"));
  t.kl_to = f.small("klTo", -1);
  if (t.kl_to < -1) bad_argument(f.where("klTo"), "a trial's index, or -1 for none");
  return t;
}

// A request and the pixels it points to.
struct OwnedRequest {
  Request request;
  std::vector<std::vector<float>> pixels;
};

std::shared_ptr<OwnedRequest> to_request(Napi::Value value, const Models& models) {
  auto owned = std::make_shared<OwnedRequest>();
  const Fields f(value, "run: request");
  const Napi::Array images = f.array("images");
  for (uint32_t i = 0; i < images.Length(); ++i) {
    const Fields image(images.Get(i), f.where("images") + "[" + std::to_string(i) + "]");
    const Napi::Float32Array pixels = image.float32("pixels");
    owned->pixels.emplace_back(pixels.Data(), pixels.Data() + pixels.ElementLength());
    const std::vector<int32_t> grid = to_small_ints(image.value("grid"), image.where("grid"));
    if (grid.size() != 3) bad_argument(image.where("grid"), "[time, height, width]");
    ImageInput input;
    input.grid = {grid[0], grid[1], grid[2]};
    owned->request.images.push_back(input);
  }
  for (size_t i = 0; i < owned->pixels.size(); ++i) owned->request.images[i].pixels = owned->pixels[i].data();
  const Napi::Array prompts = f.array("prompts");
  for (uint32_t i = 0; i < prompts.Length(); ++i) {
    const Napi::HandleScope scope(value.Env());
    const Fields prompt(prompts.Get(i), f.where("prompts") + "[" + std::to_string(i) + "]");
    PromptInput input;
    // Each is copied before the next is asked for: a getter could detach the buffer of the one before.
    const Napi::Int32Array ids = prompt.int32("ids");
    input.ids.assign(ids.Data(), ids.Data() + ids.ElementLength());
    const Napi::Int32Array positions = prompt.int32("positions");
    input.positions.assign(positions.Data(), positions.Data() + positions.ElementLength());
    input.next_position = prompt.small("nextPosition");
    const Napi::Array places = prompt.array("images");
    for (uint32_t j = 0; j < places.Length(); ++j) {
      const Fields place(places.Get(j), prompt.where("images") + "[" + std::to_string(j) + "]");
      input.images.push_back({place.small("image"), place.small("start"), place.small("count")});
    }
    owned->request.prompts.push_back(std::move(input));
  }
  owned->request.trials = to_vector(f.value("trials"), f.where("trials"),
                                    [&](Napi::Value v, const std::string& w) { return to_trial(v, w, models); });

  // The pixels must fill their grids before anything reads them.
  if (!owned->request.trials.empty() && owned->request.trials[0].model->config.vision) {
    const int64_t patch_dim = owned->request.trials[0].model->config.vision->patch_dim;
    for (size_t i = 0; i < owned->pixels.size(); ++i) {
      double expected = static_cast<double>(patch_dim);  // a hostile grid overflows integers
      for (int32_t side : owned->request.images[i].grid) expected *= side;
      const size_t got = owned->pixels[i].size();
      if (expected != static_cast<double>(got))
        throw Error(Code::kShapeMismatch,
                    "image " + std::to_string(i) + ": expected " +
                        shape_text({owned->request.images[i].grid.begin(), owned->request.images[i].grid.end()}) +
                        " patches of " + std::to_string(patch_dim) + " pixel values, got " + std::to_string(got) +
                        " values");
    }
  }
  return owned;
}

Napi::Int32Array js_int32(Napi::Env env, const std::vector<int32_t>& values) {
  Napi::Int32Array out = Napi::Int32Array::New(env, values.size());
  if (!values.empty()) std::memcpy(out.Data(), values.data(), values.size() * sizeof(int32_t));
  return out;
}

Napi::Value to_js(Napi::Env env, const Response& response) {
  Napi::Array trials = Napi::Array::New(env, response.trials.size());
  for (size_t i = 0; i < response.trials.size(); ++i) {
    const Napi::HandleScope scope(env);
    const TrialOutput& trial = response.trials[i];
    Napi::Object out = Napi::Object::New(env);
    out.Set("tokens", js_int32(env, trial.tokens));
    out.Set("logprobs", js_float32(env, trial.logprobs.data(), trial.logprobs.size()));
    out.Set("truncated", Napi::Boolean::New(env, trial.truncated));
    out.Set("scoreLogprobs", js_float32(env, trial.score_logprobs.data(), trial.score_logprobs.size()));
    out.Set("kl", Napi::Number::New(env, trial.kl));
    Napi::Array captures = Napi::Array::New(env, trial.captures.size());
    for (size_t c = 0; c < trial.captures.size(); ++c) {
      Napi::Object capture = Napi::Object::New(env);
      capture.Set("shape", js_numbers(env, trial.captures[c].shape));
      capture.Set("data", js_float32(env, trial.captures[c].data.data(), trial.captures[c].data.size()));
      if (trial.captures[c].keys) capture.Set("keys", js_int32(env, *trial.captures[c].keys));
      captures.Set(static_cast<uint32_t>(c), capture);
    }
    out.Set("captures", captures);
    trials.Set(static_cast<uint32_t>(i), out);
  }
  const RunStatistics& s = response.stats;
  Napi::Object stats = Napi::Object::New(env);
  const std::pair<const char*, double> numbers[] = {
      {"prefillLayerRows", static_cast<double>(s.prefill_layer_rows)},
      {"naiveLayerRows", static_cast<double>(s.naive_layer_rows)},
      {"visionLayerRows", static_cast<double>(s.vision_layer_rows)},
      {"naiveVisionLayerRows", static_cast<double>(s.naive_vision_layer_rows)},
      {"decodeLayerRows", static_cast<double>(s.decode_layer_rows)},
      {"prefillMs", s.prefill_ms},
      {"visionMs", s.vision_ms},
      {"decodeMs", s.decode_ms},
      {"kvBytes", static_cast<double>(s.kv_bytes)}};
  for (const auto& [name, number] : numbers) stats.Set(name, Napi::Number::New(env, number));
  Napi::Object out = Napi::Object::New(env);
  out.Set("trials", trials);
  out.Set("stats", stats);
  return out;
}

class NativeEngine final : public Napi::ObjectWrap<NativeEngine> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "NativeEngine",
                       {InstanceMethod("addModel", &NativeEngine::add_model, napi_default_method),
                        InstanceMethod("removeModel", &NativeEngine::remove_model, napi_default_method),
                        InstanceMethod("run", &NativeEngine::run_request, napi_default_method),
                        InstanceAccessor("threads", &NativeEngine::threads, nullptr, napi_default)});
  }

  explicit NativeEngine(const Napi::CallbackInfo& info) : ObjectWrap(info) {
    guarded(info.Env(), [&] {
      const int64_t threads = info[0].IsUndefined() ? 0 : to_int(info[0], "NativeEngine: threads");
      if (threads < 0 || threads > 1024) bad_argument("NativeEngine: threads", "a number from 0 to 1024");
      pool_ = std::make_shared<ThreadPool>(static_cast<int>(threads));
    });
  }

 private:
  Napi::Value add_model(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      const std::string name = to_string(info[0], "addModel: name");
      const Fields spec(info[1], "addModel: spec");
      const Fields config = spec.fields("config");
      ModelConfig model_config;
      model_config.decoder = to_decoder(config.fields("decoder"));
      if (config.has("vision") && !config.value("vision").IsNull())
        model_config.vision = to_vision(config.fields("vision"), model_config.decoder);
      std::vector<std::shared_ptr<Checkpoint>> checkpoints;
      const Napi::Array list = spec.array("checkpoints");
      for (uint32_t i = 0; i < list.Length(); ++i) checkpoints.push_back(checkpoint_of(list.Get(i)));
      TensorTable table;
      const Napi::Object tensors = to_object(spec.value("tensors"), spec.where("tensors"));
      for (const std::string& canonical : to_strings(tensors.GetPropertyNames(), spec.where("tensors"))) {
        const std::string where = spec.where("tensors") + "." + canonical;
        const Napi::Array pair = to_array(tensors.Get(canonical), where);
        const int64_t index = to_int(pair.Get(0u), where + "[0]");
        if (index < 0 || index >= static_cast<int64_t>(checkpoints.size()))
          bad_argument(where + "[0]", "an index into checkpoints");
        table.entries[canonical] = {checkpoints[index], to_string(pair.Get(1u), where + "[1]")};
      }
      std::shared_ptr<const Model> model = store_.build(model_config, table);
      models_[name] = model;
      Napi::Object out = Napi::Object::New(info.Env());
      out.Set("parameters", Napi::Number::New(info.Env(), static_cast<double>(model->parameters)));
      return out;
    });
  }

  Napi::Value remove_model(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      return Napi::Boolean::New(info.Env(), models_.erase(to_string(info[0], "removeModel: name")) > 0);
    });
  }

  Napi::Value threads(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), pool_->threads()); }

  Napi::Value run_request(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      std::shared_ptr<OwnedRequest> owned = to_request(info[0], models_);
      return run_task<Response>(
          info.Env(), info[1],
          [owned, pool = pool_](Progress& progress) {
            RunControl control;
            control.cancelled = &progress.cancelled();
            // One number line for the caller: the stage in the thousands, its share below.
            control.progress = [&progress](Stage stage, int64_t done, int64_t total) {
              progress.step(static_cast<int64_t>(stage) * 1000 + (total > 0 ? done * 999 / total : 0), 3000);
            };
            return run(owned->request, *pool, control);
          },
          [](Napi::Env env, Response& response) { return to_js(env, response); });
    });
  }

  std::shared_ptr<ThreadPool> pool_;
  WeightStore store_;
  Models models_;
};

}  // namespace

void init_engine(Napi::Env env, Napi::Object exports) {
  export_class(env, exports, "NativeEngine", NativeEngine::define(env));
}

}  // namespace galvani
