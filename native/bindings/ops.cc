// NativeOps: single ops on the caller's arrays, synchronously. For tests and benches; lib/index.ts does not export it.
#include <limits>
#include <memory>

#include "bindings/addon.h"
#include "bindings/convert.h"
#include "bindings/task.h"
#include "ops/attention.h"
#include "ops/matmul.h"
#include "ops/rope.h"

namespace galvani {
namespace {

// The field's data after checking that it holds exactly `count` floats.
float* floats(const Fields& f, const char* name, int64_t count) {
  const Napi::Float32Array array = f.float32(name);
  if (static_cast<int64_t>(array.ElementLength()) != count)
    throw Error(Code::kBadArgument, f.where(name) + ": expected " + std::to_string(count) + " floats, got " +
                                        std::to_string(array.ElementLength()));
  return const_cast<float*>(array.Data());
}
float* optional_floats(const Fields& f, const char* name, int64_t count) {
  return f.has(name) ? floats(f, name, count) : nullptr;
}

int32_t size(const Fields& f, const char* name, int64_t least = 0) {
  const int64_t value = f.integer(name);
  if (value < least || value > (int64_t{1} << 30)) bad_argument(f.where(name), "a size");
  return static_cast<int32_t>(value);
}

const int32_t* ints(const Fields& f, const char* name, int64_t count) {
  const Napi::Int32Array array = f.int32(name);
  if (static_cast<int64_t>(array.ElementLength()) != count)
    throw Error(Code::kBadArgument, f.where(name) + ": expected " + std::to_string(count) + " integers, got " +
                                        std::to_string(array.ElementLength()));
  return array.Data();
}

const uint8_t* classes(const Fields& f, const char* name, int64_t count, int64_t limit) {
  const Napi::Uint8Array array = to_uint8(f.value(name), f.where(name));
  if (static_cast<int64_t>(array.ElementLength()) != count) bad_argument(f.where(name), "one class each");
  for (int64_t i = 0; i < count; ++i)
    if (array.Data()[i] >= limit) bad_argument(f.where(name), "classes within the table");
  return array.Data();
}

class NativeOps : public Napi::ObjectWrap<NativeOps> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "NativeOps",
        {InstanceMethod("matmul", &NativeOps::matmul_call), InstanceMethod("attention", &NativeOps::attention_call),
         InstanceMethod("mropeTable", &NativeOps::mrope_call),
         InstanceMethod("visionRopeTable", &NativeOps::vision_rope_call)});
  }

  explicit NativeOps(const Napi::CallbackInfo& info) : Napi::ObjectWrap<NativeOps>(info) {
    guarded(info.Env(), [&] {
      const int64_t threads = info[0].IsUndefined() ? 0 : to_int(info[0], "NativeOps: threads");
      if (threads < 0 || threads > 1024) bad_argument("NativeOps: threads", "0 (all) to 1024");
      pool_ = std::make_unique<ThreadPool>(static_cast<int>(threads));
    });
  }

 private:
  Napi::Value matmul_call(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      const Fields f(info[0], "matmul: request");
      const int64_t m = size(f, "m"), n = size(f, "n"), k = size(f, "k");
      const std::optional<DType> dtype = parse_dtype(f.string("dtype"));
      const Napi::Uint8Array w = to_uint8(f.value("w"), f.where("w"));
      if (!dtype) bad_argument(f.where("dtype"), "a dtype");
      if (static_cast<int64_t>(w.ElementLength()) != n * k * dtype_size(*dtype))
        bad_argument(f.where("w"), "n · k weights");
      matmul({floats(f, "y", m * n),
              n,
              floats(f, "x", m * k),
              k,
              {w.Data(), *dtype, n, k},
              optional_floats(f, "bias", n),
              m},
             *pool_);
      return info.Env().Undefined();
    });
  }

  Napi::Value attention_call(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      const Fields f(info[0], "attention: request");
      const AttentionShape shape{size(f, "heads", 1), size(f, "kvHeads", 1), size(f, "headDim", 1),
                                 static_cast<float>(f.number("scale"))};
      const int64_t dims = shape.head_dim, keys = size(f, "keys"), width = int64_t{shape.heads} * dims;
      const int32_t rows = size(f, "rows");
      const float *k = floats(f, "k", shape.kv_heads * keys * dims), *v = floats(f, "v", shape.kv_heads * keys * dims);
      const Napi::Int32Array cuts = f.int32("runs");
      if (cuts.ElementLength() % 3) bad_argument(f.where("runs"), "[first, count, segment] each");

      const int32_t segments = f.has("segments") ? size(f, "segments") : 0;
      const size_t count = cuts.ElementLength() / 3;
      std::vector<const float*> pointers(2 * count * shape.kv_heads);
      std::vector<KeyRun> runs;
      for (size_t i = 0; i < count; ++i) {
        const int32_t first = cuts.Data()[3 * i], length = cuts.Data()[3 * i + 1], segment = cuts.Data()[3 * i + 2];
        if (first < 0 || length < 0 || int64_t{first} + length > keys || segment < 0 ||
            (segments > 0 && segment >= segments))
          bad_argument(f.where("runs"), "runs within the keys and segments");
        const float** at = &pointers[2 * i * shape.kv_heads];
        for (int32_t g = 0; g < shape.kv_heads; ++g) {
          at[g] = k + (g * keys + first) * dims;
          at[shape.kv_heads + g] = v + (g * keys + first) * dims;
        }
        runs.push_back({at, at + shape.kv_heads, dims, length, first, segment});
      }

      std::vector<ScoreEdit> table;
      ScoreEdits edits{};
      if (f.has("edits")) {
        const Fields e = f.fields("edits");
        const int64_t head_classes = size(e, "headClasses", 1), row_classes = size(e, "rowClasses", 1);
        table.resize(head_classes * row_classes * count);
        const int64_t cells = static_cast<int64_t>(table.size());
        const float *gamma = floats(e, "gamma", cells), *beta = floats(e, "beta", cells);
        const uint8_t* blocked = classes(e, "blocked", cells, 2);
        const float* post = optional_floats(e, "post", cells);
        for (int64_t i = 0; i < cells; ++i) table[i] = {gamma[i], beta[i], blocked[i] != 0, post ? post[i] : 1.0f};
        edits = {classes(e, "headClass", shape.heads, head_classes), classes(e, "rowClass", rows, row_classes),
                 static_cast<int32_t>(row_classes), table.data(), static_cast<int32_t>(count)};
      }
      const HeadEdits heads{optional_floats(f, "headScale", shape.heads), optional_floats(f, "headAdd", width)};
      const int64_t pairs = int64_t{rows} * shape.heads;
      AttentionCapture capture;
      capture.segments = segments;
      capture.mass = optional_floats(f, "mass", pairs * segments);
      capture.entropy = optional_floats(f, "entropy", pairs);
      capture.lse = optional_floats(f, "lse", pairs);
      capture.key_mass = optional_floats(f, "keyMass", shape.heads * keys);
      capture.key_span = keys;
      capture.pattern = optional_floats(f, "pattern", pairs * keys);
      if (f.has("topK")) {
        capture.top_k = size(f, "topK", 1);
        capture.top_index = const_cast<int32_t*>(ints(f, "topIndex", pairs * capture.top_k));
        capture.top_weight = floats(f, "topWeight", pairs * capture.top_k);
      }
      const bool captures = capture.mass || capture.entropy || capture.lse || capture.key_mass || capture.pattern ||
                            capture.top_index;

      AttentionItem item{};
      item.q = floats(f, "q", rows * width);
      item.q_stride = width;
      item.out = floats(f, "out", rows * width);
      item.out_stride = width;
      item.limit = ints(f, "limit", rows);
      item.low = f.has("low") ? ints(f, "low", rows) : nullptr;
      item.rows = rows;
      item.runs = runs.data();
      item.run_count = static_cast<int32_t>(count);
      item.edits = table.empty() ? nullptr : &edits;
      item.head_edits = heads.scale || heads.add ? &heads : nullptr;
      item.capture = captures ? &capture : nullptr;
      attention(shape, &item, 1, *pool_);
      return info.Env().Undefined();
    });
  }

  Napi::Value mrope_call(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      const Fields f(info[0], "mropeTable: request");
      const int64_t rows = size(f, "rows"), dims = size(f, "headDim", 2);
      const Napi::Int32Array positions = f.int32("positions");
      const std::vector<int64_t> section = f.integers("section");
      if (static_cast<int64_t>(positions.ElementLength()) != 3 * rows) bad_argument(f.where("positions"), "(3, rows)");
      if (section.size() != 3) bad_argument(f.where("section"), "three sizes");
      const int32_t sizes[3] = {static_cast<int32_t>(section[0]), static_cast<int32_t>(section[1]),
                                static_cast<int32_t>(section[2])};
      mrope_table(floats(f, "cos", rows * (dims / 2)), floats(f, "sin", rows * (dims / 2)), positions.Data(), rows,
                  dims, sizes, static_cast<float>(f.number("theta")));
      return info.Env().Undefined();
    });
  }

  Napi::Value vision_rope_call(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&]() -> Napi::Value {
      const Fields f(info[0], "visionRopeTable: request");
      const int64_t rows = size(f, "rows"), dims = size(f, "headDim", 4);
      const Napi::Int32Array positions = f.int32("positions");
      if (static_cast<int64_t>(positions.ElementLength()) != 2 * rows) bad_argument(f.where("positions"), "(rows, 2)");
      vision_rope_table(floats(f, "cos", rows * (dims / 2)), floats(f, "sin", rows * (dims / 2)), positions.Data(),
                        rows, dims);
      return info.Env().Undefined();
    });
  }

  std::unique_ptr<ThreadPool> pool_;
};

}  // namespace

void init_ops(Napi::Env env, Napi::Object exports) { export_class(env, exports, "NativeOps", NativeOps::define(env)); }

}  // namespace galvani
