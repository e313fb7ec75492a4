// Writing merged checkpoints and adapters from JavaScript.
//
//   writeMerged(path, metadata, checkpoints, tensors, {seed, threads}, task) → Promise<void>
//   writeLowRank({path, metadata, before, beforeName, after, afterName, nameA, nameB, rank, …}, task)
//                                                        → Promise<{rank, singularValues, square}>
//   mergeMethods() → string[]
#include "weights/merge.h"

#include "bindings/addon.h"
#include "bindings/convert.h"
#include "bindings/task.h"
#include "weights/low_rank.h"

namespace galvani {
namespace {

DType to_dtype(const Fields& fields, const char* name) {
  const auto dtype = parse_dtype(fields.string(name));
  if (!dtype) bad_argument(fields.where(name), "a safetensors dtype");
  return *dtype;
}

std::vector<int32_t> to_rows(Napi::Value value, const std::string& where) {
  const Napi::Int32Array rows = to_int32(value, where);
  return {rows.Data(), rows.Data() + rows.ElementLength()};
}

MergeTable to_table(Napi::Value value, const std::string& where) {
  const Fields fields(value, where);
  MergeTable table{static_cast<size_t>(fields.integer("checkpoint")), fields.string("name"), {}};
  if (fields.has("adapter")) {
    const Fields adapter = fields.fields("adapter");
    table.adapter =
        MergeTable::Adapter{static_cast<size_t>(adapter.integer("checkpoint")), adapter.string("a"),
                            adapter.string("b"), adapter.number("scale"), adapter.boolean("transposed", false)};
  }
  return table;
}

MergeInput to_input(Napi::Value value, const std::string& where) {
  const Fields fields(value, where);
  MergeInput input;
  input.tables = to_vector(fields.value("tables"), fields.where("tables"), to_table);
  input.gathers = fields.has("rows");
  if (!input.gathers) return input;
  input.rows = to_rows(fields.value("rows"), fields.where("rows"));
  input.blends = to_vector(fields.value("blends"), fields.where("blends"), to_rows);
  input.padding = fields.integer("padding");
  if (input.padding < 0) bad_argument(fields.where("padding"), "a non-negative number");
  return input;
}

std::map<std::string, double> to_number_map(Napi::Value value, const std::string& where) {
  const Napi::Object object = to_object(value, where);
  std::map<std::string, double> out;
  for (const std::string& key : to_strings(object.GetPropertyNames(), where))
    out[key] = to_double(object.Get(key), where + "." + key);
  return out;
}

MergeTensor to_tensor(Napi::Value value, const std::string& where) {
  const Fields fields(value, where);
  MergeTensor tensor;
  tensor.name = fields.string("name");
  tensor.dtype = to_dtype(fields, "dtype");
  tensor.shape = fields.integers("shape");
  tensor.method = fields.string("method");
  tensor.inputs = to_vector(fields.value("inputs"), fields.where("inputs"), to_input);
  tensor.base = fields.small("base", -1);
  if (tensor.base < -1 || tensor.base >= static_cast<int>(tensor.inputs.size()))
    bad_argument(fields.where("base"), "the index of an input");
  tensor.shared = to_number_map(fields.value("shared"), fields.where("shared"));
  const Napi::Object each = to_object(fields.value("each"), fields.where("each"));
  for (const std::string& key : to_strings(each.GetPropertyNames(), fields.where("each")))
    tensor.each[key] = to_vector(each.Get(key), fields.where("each") + "." + key, to_double);
  return tensor;
}

std::vector<std::shared_ptr<Checkpoint>> to_checkpoints(Napi::Value value, const std::string& where) {
  return to_vector(value, where, [](Napi::Value one, const std::string&) { return checkpoint_of(one); });
}

int to_threads(const Fields& fields) {
  const int64_t threads = fields.integer("threads", 0);
  if (threads < 0 || threads > 1024) bad_argument(fields.where("threads"), "0 to 1024");
  return static_cast<int>(threads);
}

Napi::Value write_merged_call(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const std::string path = to_string(info[0], "writeMerged: path");
    const auto metadata = to_string_map(info[1], "writeMerged: metadata");
    const auto checkpoints = to_checkpoints(info[2], "writeMerged: checkpoints");
    const auto tensors = to_vector(info[3], "writeMerged: tensors", to_tensor);
    const Fields options(info[4], "writeMerged: options");
    const auto seed = static_cast<uint64_t>(options.integer("seed", 0));
    const int threads = to_threads(options);
    return run_task<bool>(
        info.Env(), info[5],
        [=](Progress& progress) {
          ThreadPool pool(threads);
          write_merged(
              path, metadata, checkpoints, tensors, seed, pool,
              [&](int64_t done, int64_t total) { progress.step(done, total); }, [&] { progress.check(); });
          return true;
        },
        [](Napi::Env env, const bool&) -> Napi::Value { return env.Undefined(); });
  });
}

Napi::Value write_low_rank_call(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    const Fields fields(info[0], "writeLowRank");
    const std::string path = fields.string("path"), before_name = fields.string("beforeName"),
                      after_name = fields.string("afterName"), name_a = fields.string("nameA"),
                      name_b = fields.string("nameB");
    const auto metadata = to_string_map(fields.value("metadata"), fields.where("metadata"));
    const auto before = checkpoint_of(fields.value("before")), after = checkpoint_of(fields.value("after"));
    const LowRankOptions options{fields.integer("rank"), fields.number("energy", 1), fields.number("least", 0),
                                 to_dtype(fields, "dtype"), fields.boolean("transposed", false)};
    if (options.rank < 1) bad_argument(fields.where("rank"), "a positive number");
    const int threads = to_threads(fields);
    return run_task<LowRank>(
        info.Env(), info[1],
        [=](Progress& progress) {
          ThreadPool pool(threads);
          return write_low_rank(path, metadata, *before, before_name, *after, after_name, name_a, name_b, options, pool,
                                [&] { progress.check(); });
        },
        [](Napi::Env env, const LowRank& result) -> Napi::Value {
          Napi::Object out = Napi::Object::New(env);
          out.Set("rank", static_cast<double>(result.rank));
          out.Set("singularValues", js_numbers(env, result.values));
          out.Set("square", result.square);
          return out;
        });
  });
}

Napi::Value merge_methods_call(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value { return js_array(info.Env(), combine_methods()); });
}

}  // namespace

void init_merge(Napi::Env env, Napi::Object exports) {
  exports.Set("writeMerged", Napi::Function::New(env, write_merged_call, "writeMerged"));
  exports.Set("writeLowRank", Napi::Function::New(env, write_low_rank_call, "writeLowRank"));
  exports.Set("mergeMethods", Napi::Function::New(env, merge_methods_call, "mergeMethods"));
}

}  // namespace galvani
