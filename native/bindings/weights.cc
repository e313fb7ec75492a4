// Comparing checkpoints from JavaScript.
//
//   compareWeights(checkpoints: NativeCheckpoint[], tensors: {name, names}[], options, task) → Promise<TensorDelta[]>
//   identicalTensors(before, after, tensors, task) → Promise<boolean[]>
//   singularValues(data: Float32Array, rows, columns, method) → {values, resolution, method}; synchronous, for tests
//                                                                and small matrices
#include "bindings/addon.h"
#include "bindings/convert.h"
#include "bindings/task.h"
#include "device/load.h"
#include "weights/delta.h"

namespace galvani {
namespace {

Napi::Value js_doubles(Napi::Env env, const std::vector<double>& values) {
  Napi::Float64Array out = Napi::Float64Array::New(env, values.size());
  std::copy(values.begin(), values.end(), out.Data());
  return out;
}
void set_optional(Napi::Object out, const char* name, const std::optional<double>& value) {
  if (value)
    out.Set(name, *value);
  else
    out.Set(name, out.Env().Null());
}

SpectrumMethod to_method(const std::string& text, const std::string& where) {
  if (text == "auto") return SpectrumMethod::kAuto;
  if (text == "gram") return SpectrumMethod::kGram;
  if (text == "direct") return SpectrumMethod::kDirect;
  if (text == "top") return SpectrumMethod::kTop;
  bad_argument(where, "'auto', 'gram', 'direct' or 'top'");
}
const char* method_name(SpectrumMethod method) {
  if (method == SpectrumMethod::kTop) return "top";
  return method == SpectrumMethod::kDirect ? "direct" : "gram";
}

std::vector<TensorKey> to_keys(Napi::Value value, size_t checkpoints, const std::string& where) {
  return to_vector(value, where, [&](Napi::Value item, const std::string& at) {
    const Fields fields(item, at);
    TensorKey key{fields.string("name"), fields.strings("names")};
    if (key.names.size() != checkpoints) bad_argument(fields.where("names"), "one name per checkpoint");
    return key;
  });
}

void set_measures(Napi::Object out, const SpectrumMeasures& measures) {
  out.Set("spectralNorm", measures.spectral_norm);
  set_optional(out, "nuclearNorm", measures.nuclear_norm);
  out.Set("frobeniusNorm", measures.frobenius_norm);
  out.Set("resolved", static_cast<double>(measures.resolved));
  set_optional(out, "stableRank", measures.stable_rank);
  set_optional(out, "participationRatio", measures.participation_ratio);
  set_optional(out, "effectiveRank", measures.effective_rank);
  set_optional(out, "conditionNumber", measures.condition_number);
  set_optional(out, "logVolume", measures.log_volume);
}

Napi::Object js_spectrum(Napi::Env env, const StepSpectrum& step) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("singularValues", js_doubles(env, step.spectrum.values));
  out.Set("resolution", step.spectrum.resolution);
  out.Set("method", method_name(step.spectrum.method));
  if (!step.spectrum.bounds.empty()) out.Set("bounds", js_doubles(env, step.spectrum.bounds));
  set_measures(out, step.measures);
  if (step.floor) {
    Napi::Object floor = Napi::Object::New(env);
    floor.Set("singularValues", js_doubles(env, step.floor->values));
    floor.Set("edge", step.floor->edge);
    set_measures(floor, step.floor->measures);
    floor.Set("frobeniusNorm", step.floor->frobenius_norm);  // exact, whatever the draw
    floor.Set("draws", step.floor->draws);
    out.Set("floor", floor);
    Napi::Object above = Napi::Object::New(env);
    above.Set("rank", static_cast<double>(step.floor->rank_above));
    set_optional(above, "stableRank", step.floor->above.stable_rank);
    set_optional(above, "participationRatio", step.floor->above.participation_ratio);
    set_optional(above, "effectiveRank", step.floor->above.effective_rank);
    above.Set("frobeniusNorm", step.floor->above.frobenius_norm);
    out.Set("aboveFloor", above);
  }
  if (!step.weight_left.empty()) {
    Napi::Object angles = Napi::Object::New(env);
    angles.Set("left", js_doubles(env, step.weight_left));
    angles.Set("right", js_doubles(env, step.weight_right));
    out.Set("weightCosines", angles);
  }
  return out;
}

Napi::Object js_step(Napi::Env env, const TensorDelta& delta, size_t index) {
  const StepSums& sums = delta.sums.steps[index];
  Napi::Object out = Napi::Object::New(env);
  out.Set("sum", sums.sum);
  out.Set("square", sums.square);
  out.Set("cube", sums.cube);
  out.Set("fourth", sums.fourth);
  out.Set("maxAbs", sums.max_abs);
  out.Set("identical", static_cast<double>(sums.identical));
  out.Set("zero", static_cast<double>(sums.zero));
  out.Set("belowHalfUlp", static_cast<double>(sums.below_half_ulp()));
  out.Set("ulpHistogram", js_numbers(env, std::vector<int64_t>(sums.ulps.begin(), sums.ulps.end())));
  if (delta.spectra[index]) out.Set("spectrum", js_spectrum(env, *delta.spectra[index]));
  if (!sums.rows.empty() || !sums.columns.empty()) {
    out.Set("rowSquares", js_doubles(env, sums.rows));
    out.Set("columnSquares", js_doubles(env, sums.columns));
  }
  return out;
}

Napi::Object js_delta(Napi::Env env, const TensorDelta& delta) {
  const size_t steps = delta.dtypes.size() - 1;
  Napi::Object out = Napi::Object::New(env);
  out.Set("name", delta.name);
  Napi::Array dtypes = Napi::Array::New(env), weights = Napi::Array::New(env), list = Napi::Array::New(env);
  for (uint32_t c = 0; c <= steps; ++c) {
    dtypes.Set(c, dtype_name(delta.dtypes[c]));
    weights.Set(c, delta.sums.weight_square[c]);
  }
  for (uint32_t s = 0; s < steps; ++s) list.Set(s, js_step(env, delta, s));
  out.Set("dtypes", dtypes);
  out.Set("shape", js_numbers(env, delta.shape));
  out.Set("elements", static_cast<double>(delta.sums.elements));
  out.Set("nonFinite", static_cast<double>(delta.sums.non_finite));
  out.Set("weightSquares", weights);
  out.Set("steps", list);
  if (steps == 2) {
    out.Set("dot", delta.sums.dot);
    out.Set("sameSign", static_cast<double>(delta.sums.same_sign));
    out.Set("oppositeSign", static_cast<double>(delta.sums.opposite_sign));
    if (!delta.pair_left.empty()) {
      Napi::Object cosines = Napi::Object::New(env);
      cosines.Set("left", js_doubles(env, delta.pair_left));
      cosines.Set("right", js_doubles(env, delta.pair_right));
      out.Set("pairCosines", cosines);
    }
  }
  return out;
}

Napi::Value compare_weights(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    auto checkpoints = to_vector(info[0], "compareWeights: checkpoints",
                                 [](Napi::Value value, const std::string&) { return checkpoint_of(value); });
    if (checkpoints.size() != 2 && checkpoints.size() != 3) bad_argument("compareWeights: checkpoints", "two or three");
    auto keys = to_keys(info[1], checkpoints.size(), "compareWeights: tensors");
    const Fields fields(info[2], "compareWeights: options");
    DeltaOptions options;
    options.spectra = fields.boolean("spectra", false);
    options.floor = fields.boolean("floor", true);
    options.mass = fields.boolean("mass", false);
    options.seed = static_cast<uint64_t>(fields.integer("seed", 0));
    options.subspace = fields.integer("subspace", 0);
    options.top = fields.integer("top", 50);
    options.method = to_method(fields.string("method", "auto"), fields.where("method"));
    const std::string where = fields.string("device", "cpu");
    if (where != "cpu" && where != "cuda") bad_argument(fields.where("device"), "'cpu' or 'cuda'");
    if (where == "cuda") options.device = &gpu_backend();
    const int64_t threads = fields.integer("threads", 0);
    if (options.subspace < 0 || options.top < 1 || threads < 0 || threads > 1024)
      bad_argument("compareWeights: options", "non-negative sizes");
    return run_task<std::vector<TensorDelta>>(
        info.Env(), info[3],
        [=](Progress& progress) {
          ThreadPool pool(static_cast<int>(threads));
          return compare(
              checkpoints, keys, options, pool, [&](int64_t done, int64_t total) { progress.step(done, total); },
              [&] { progress.check(); });
        },
        [](Napi::Env env, const std::vector<TensorDelta>& deltas) -> Napi::Value {
          Napi::Array out = Napi::Array::New(env, deltas.size());
          for (size_t i = 0; i < deltas.size(); ++i) {
            const Napi::HandleScope scope(env);
            out.Set(static_cast<uint32_t>(i), js_delta(env, deltas[i]));
          }
          return out;
        });
  });
}

Napi::Value identical_tensors_call(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const auto before = checkpoint_of(info[0]), after = checkpoint_of(info[1]);
    auto keys = to_keys(info[2], 2, "identicalTensors: tensors");
    return run_task<std::vector<bool>>(
        info.Env(), info[3],
        [=](Progress& progress) {
          ThreadPool pool;
          return identical_tensors(*before, *after, keys, pool,
                                   [&](int64_t done, int64_t total) { progress.step(done, total); });
        },
        [](Napi::Env env, const std::vector<bool>& equal) -> Napi::Value {
          Napi::Array out = Napi::Array::New(env, equal.size());
          for (size_t i = 0; i < equal.size(); ++i)
            out.Set(static_cast<uint32_t>(i), Napi::Boolean::New(env, equal[i]));
          return out;
        });
  });
}

Napi::Value singular_values(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const Napi::Float32Array data = to_float32(info[0], "singularValues: data");
    const int64_t rows = to_int(info[1], "singularValues: rows"), columns = to_int(info[2], "singularValues: columns");
    if (rows < 0 || columns < 0 || (rows > 0 && columns > static_cast<int64_t>(data.ElementLength()) / rows) ||
        rows * columns != static_cast<int64_t>(data.ElementLength()))
      bad_argument("singularValues: data", "rows · columns values");
    const SpectrumMethod method = to_method(to_string(info[3], "singularValues: method"), "singularValues: method");
    const float* values = data.Data();
    const MatrixSource matrix{rows, columns, [=](int64_t row, int64_t n, int64_t column, int64_t m, float* out) {
                                for (int64_t i = 0; i < n; ++i)
                                  std::copy_n(values + (row + i) * columns + column, m, out + i * m);
                              }};
    ThreadPool pool;
    const Spectrum result = spectrum(matrix, method, 0, pool);
    Napi::Object out = Napi::Object::New(info.Env());
    out.Set("values", js_doubles(info.Env(), result.values));
    out.Set("resolution", result.resolution);
    out.Set("method", method_name(result.method));
    return out;
  });
}

}  // namespace

void init_weights(Napi::Env env, Napi::Object exports) {
  exports.Set("compareWeights", Napi::Function::New(env, compare_weights, "compareWeights"));
  exports.Set("identicalTensors", Napi::Function::New(env, identical_tensors_call, "identicalTensors"));
  exports.Set("singularValues", Napi::Function::New(env, singular_values, "singularValues"));
}

}  // namespace galvani
