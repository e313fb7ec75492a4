#include "device/check/run.h"

#include <memory>

#include "core/status.h"

namespace galvani::gpu::check {
namespace {

constexpr int64_t kGuard = 512;
constexpr uint8_t kGuardByte = 0xA5;

class Device {
 public:
  Device(const Backend& backend, std::vector<std::string>& changed) : backend_(backend), changed_(changed) {}
  ~Device() {
    for (const Buffer& buffer : buffers_) backend_.free(buffer.base);
  }

  void call(int code, const char* what) {
    if (code != 0)
      throw Error(Code::kInternal,
                  std::string(what) + " returned " + std::to_string(code) + ": " + backend_.last_error());
  }

  // A copy of host memory between guards.
  template <class T>
  T* in(const std::vector<T>& data, const char* name) {
    if (data.empty()) return nullptr;
    return static_cast<T*>(upload(data.data(), static_cast<int64_t>(data.size() * sizeof(T)), name));
  }

  template <class T>
  T* out(Output<T>& output, int64_t count, uint8_t poison, const char* name) {
    output.poison = poison;
    output.data.resize(static_cast<size_t>(count));
    Buffer buffer = allocate(count * static_cast<int64_t>(sizeof(T)), name);
    buffer.poison = poison;
    buffer.to = output.data.data();
    buffers_.push_back(buffer);
    return reinterpret_cast<T*>(static_cast<uint8_t*>(buffer.base) + kGuard);
  }

  void poison(bool other) {
    for (const Buffer& buffer : buffers_)
      if (buffer.to)
        call(backend_.fill(static_cast<uint8_t*>(buffer.base) + kGuard, other ? buffer.poison ^ 0x81 : buffer.poison,
                           buffer.bytes, nullptr),
             "fill");
  }

  // Outputs to the host; then every guard and input is looked at.
  void collect() {
    call(backend_.sync(nullptr), "sync after the launches");
    std::vector<uint8_t> bytes;
    for (const Buffer& buffer : buffers_) {
      bytes.resize(static_cast<size_t>(buffer.bytes + 2 * kGuard));
      fetch(buffer, bytes);
      for (int64_t i = 0; i < kGuard; ++i)
        if (bytes[i] != kGuardByte || bytes[kGuard + buffer.bytes + i] != kGuardByte) {
          changed_.push_back(std::string("guard of ") + buffer.name);
          break;
        }
      if (buffer.to)
        std::memcpy(buffer.to, bytes.data() + kGuard, static_cast<size_t>(buffer.bytes));
      else if (std::memcmp(buffer.from.data(), bytes.data() + kGuard, static_cast<size_t>(buffer.bytes)) != 0)
        changed_.push_back(std::string("input ") + buffer.name);
    }
  }

  // After a second launch over another poison: each byte is the same, or was poison and is.
  void compare() {
    call(backend_.sync(nullptr), "sync after the second launches");
    std::vector<uint8_t> bytes;
    for (const Buffer& buffer : buffers_) {
      if (!buffer.to) continue;
      bytes.resize(static_cast<size_t>(buffer.bytes + 2 * kGuard));
      fetch(buffer, bytes);
      const uint8_t* first = static_cast<const uint8_t*>(buffer.to);
      const uint8_t other = buffer.poison ^ 0x81;
      for (int64_t i = 0; i < buffer.bytes; ++i) {
        const uint8_t now = bytes[kGuard + i];
        if (now == first[i] || (first[i] == buffer.poison && now == other)) continue;
        changed_.push_back(std::string("bits of ") + buffer.name + " on a second launch");
        break;
      }
    }
  }

 private:
  struct Buffer {
    void* base = nullptr;
    int64_t bytes = 0;
    const char* name = "";
    uint8_t poison = 0;
    void* to = nullptr;         // outputs
    std::vector<uint8_t> from;  // inputs
  };

  Buffer allocate(int64_t bytes, const char* name) {
    Buffer buffer;
    buffer.bytes = bytes;
    buffer.name = name;
    call(backend_.alloc(&buffer.base, bytes + 2 * kGuard), "alloc");
    call(backend_.fill(buffer.base, kGuardByte, bytes + 2 * kGuard, nullptr), "fill");
    return buffer;
  }

  void* upload(const void* data, int64_t bytes, const char* name) {
    Buffer buffer = allocate(bytes, name);
    buffer.from.assign(static_cast<const uint8_t*>(data), static_cast<const uint8_t*>(data) + bytes);
    void* at = static_cast<uint8_t*>(buffer.base) + kGuard;
    call(backend_.copy_in(at, data, bytes, nullptr), "copy_in");
    buffers_.push_back(std::move(buffer));
    return at;
  }

  void fetch(const Buffer& buffer, std::vector<uint8_t>& bytes) {
    call(backend_.copy_out(bytes.data(), buffer.base, static_cast<int64_t>(bytes.size()), nullptr), "copy_out");
    call(backend_.sync(nullptr), "sync");
  }

  const Backend& backend_;
  std::vector<std::string>& changed_;
  std::vector<Buffer> buffers_;
};

AttnPlan plan_scene(const Scene& scene) {
  std::vector<HookProgram> programs;
  for (const Program& program : scene.programs)
    programs.push_back({program.head_class.empty() ? nullptr : program.head_class.data(),
                        program.edges.empty() ? nullptr : program.edges.data(),
                        program.head_scale.empty() ? nullptr : program.head_scale.data(), nullptr, program.row_classes,
                        scene.segments});
  AttnPlanInput in{};
  in.heads = scene.heads;
  in.kv_heads = scene.kv_heads;
  in.head_dim = scene.head_dim;
  in.tokens = scene.tokens;
  in.segments = scene.segments;
  in.blocks = scene.blocks.data();
  in.block_count = static_cast<int32_t>(scene.blocks.size());
  in.low = scene.low.empty() ? nullptr : scene.low.data();
  in.high = scene.high.empty() ? nullptr : scene.high.data();
  in.programs = programs.empty() ? nullptr : programs.data();
  in.program_count = static_cast<int32_t>(programs.size());
  in.token_program = scene.token_program.empty() ? nullptr : scene.token_program.data();
  in.token_class = scene.token_class.empty() ? nullptr : scene.token_class.data();
  in.readouts = scene.want_lse || scene.want_entropy || scene.want_mass || scene.top_k > 0;
  in.capture = scene.capture.empty() ? nullptr : scene.capture.data();
  return plan_attention(in, scene.plan);
}

class Launcher {
 public:
  Launcher(const Backend& backend, const Scene& scene, SceneRun& run)
      : backend_(backend), scene_(scene), run_(run), device_(backend, run.changed) {}

  void prepare() {
    run_.plan = plan_scene(scene_);
    inputs();
    outputs();
    probes();
  }

  void launch(bool other_poison) {
    device_.poison(other_poison);
    std::string names;
    const auto note = [&](const char* name, size_t count) {
      names += (names.empty() ? "" : ", ") + std::string(name) + " " + std::to_string(count);
    };
    using Entry = int (*)(const AttnParams*, void*);
    const Entry entries[kAttnKernels] = {backend_.attn_mma, backend_.attn_decode, backend_.attn_wgmma};
    for (int i = 0; i < kAttnKernels; ++i) {
      const std::vector<AttnItem>& items = run_.plan.items[i];
      if (items.empty()) continue;
      AttnParams params = params_;
      params.items = items_[i];
      params.item_count = static_cast<int32_t>(items.size());
      const char* name = attn_kernel_name(static_cast<AttnKernel>(i));
      note(name, items.size());
      device_.call(entries[i](&params, nullptr), name);
    }
    if (!run_.plan.rows.empty()) {
      AttnParams params = params_;
      params.rows = rows_;
      params.parts = parts_;
      params.row_count = static_cast<int32_t>(run_.plan.rows.size());
      note("attn_combine", run_.plan.rows.size());
      device_.call(backend_.attn_combine(&params, nullptr), "attn_combine");
    }
    if (!run_.plan.top_rows.empty()) {
      AttnParams params = params_;
      params.rows = top_rows_;
      params.parts = top_parts_;
      params.row_count = static_cast<int32_t>(run_.plan.top_rows.size());
      note("topk_refine", run_.plan.top_rows.size());
      device_.call(backend_.topk_refine(&params, nullptr), "topk_refine");
    }
    if (probe_.item_count > 0) {
      note("attn_probe", static_cast<size_t>(probe_.item_count));
      device_.call(backend_.attn_probe(&probe_, nullptr), "attn_probe");
    }
    run_.kernels = names;
  }

  Device& device() { return device_; }

 private:
  void inputs() {
    const Scene& s = scene_;
    AttnParams& p = params_;
    p.heads = s.heads;
    p.kv_heads = s.kv_heads;
    p.head_dim = s.head_dim;
    p.tokens = s.tokens;
    p.scale = s.scale;
    p.segments = s.segments;
    p.q = reinterpret_cast<const bf16*>(device_.in(s.q, "q"));
    p.k = reinterpret_cast<const bf16*>(device_.in(s.k, "k"));
    p.v = reinterpret_cast<const bf16*>(device_.in(s.v, "v"));
    p.q_stride = s.q_stride;
    p.out_stride = s.out_stride;
    p.pages = s.pages;
    p.low = device_.in(s.low, "low");
    p.high = device_.in(s.high, "high");
    p.runs = device_.in(run_.plan.runs, "runs");
    std::vector<HookProgram> programs;
    for (const Program& program : s.programs)
      programs.push_back(
          {device_.in(program.head_class, "head_class"),
           device_.in(device_edges(program.edges.data(), static_cast<int64_t>(program.edges.size())), "edges"),
           device_.in(program.head_scale, "head_scale"), device_.in(program.head_add, "head_add"), program.row_classes,
           s.segments});
    p.programs = device_.in(programs, "programs");
    p.has_edges = run_.plan.has_edges;
    p.token_program = device_.in(s.token_program, "token_program");
    p.token_class = device_.in(s.token_class, "token_class");
    p.capture = device_.in(s.capture, "capture");
    for (int i = 0; i < kAttnKernels; ++i) items_[i] = device_.in(run_.plan.items[i], "items");
    rows_ = device_.in(run_.plan.rows, "rows");
    parts_ = device_.in(run_.plan.parts, "parts");
    top_rows_ = device_.in(run_.plan.top_rows, "top rows");
    top_parts_ = device_.in(run_.plan.top_parts, "top parts");
  }

  void outputs() {
    const Scene& s = scene_;
    AttnParams& p = params_;
    DeviceOutputs& o = run_.outputs;
    const int64_t captured = int64_t{s.capture_rows} * s.heads, slots = run_.plan.slots;
    p.out = reinterpret_cast<bf16*>(device_.out(o.out, s.tokens * s.out_stride, kPoison, "out"));
    if (s.want_lse) p.lse = device_.out(o.lse, captured, kPoison, "lse");
    if (s.want_entropy) p.entropy = device_.out(o.entropy, captured, kPoison, "entropy");
    if (s.want_mass) p.mass = device_.out(o.mass, captured * s.segments, kPoison, "mass");
    if (slots > 0) {
      p.part_o = device_.out(o.part_o, slots * s.head_dim, kPoison, "part_o");
      p.part_state = device_.out(o.part_state, slots * 4, kPoison, "part_state");
      if (s.want_mass) p.part_segment = device_.out(o.part_segment, slots * s.segments * 2, kPoison, "part_segment");
    }
    if (s.top_k == 0) return;
    p.run_max_stride = run_.plan.run_max_stride;
    p.run_max = device_.out(o.run_max, captured * p.run_max_stride, kPoison, "run_max");
    p.top_k = s.top_k;
    p.top_index = device_.out(o.top_index, captured * s.top_k, 0x5A, "top_index");  // −1 is a value there
    p.top_weight = device_.out(o.top_weight, captured * s.top_k, kPoison, "top_weight");
  }

  void probes() {
    const Scene& s = scene_;
    if (s.probes.empty()) return;
    std::vector<PageRun> runs;
    std::vector<ProbeItem> items;
    for (const Probe& probe : s.probes) {
      const QueryBlock& block = s.blocks[probe.block];
      const std::vector<ProbeItem> own =
          plan_probe(block, s.heads, probe.token0, probe.tokens, static_cast<int32_t>(runs.size()), probe.base);
      items.insert(items.end(), own.begin(), own.end());
      runs.insert(runs.end(), block.runs, block.runs + block.run_count);
    }
    probe_.attn = params_;
    probe_.attn.runs = device_.in(runs, "probe runs");
    probe_.items = device_.in(items, "probe items");
    probe_.item_count = static_cast<int32_t>(items.size());
    probe_.key_span = s.key_span;
    if (s.want_key_mass)
      probe_.key_mass = device_.out(run_.outputs.key_mass, s.heads * s.key_span, kPoison, "key_mass");
    if (s.want_pattern)
      probe_.pattern =
          device_.out(run_.outputs.pattern, int64_t{s.capture_rows} * s.heads * s.key_span, kPoison, "pattern");
  }

  const Backend& backend_;
  const Scene& scene_;
  SceneRun& run_;
  Device device_;
  AttnParams params_{};
  ProbeParams probe_{};
  const AttnItem* items_[kAttnKernels] = {};
  const CombineRow *rows_ = nullptr, *top_rows_ = nullptr;
  const AttnPart *parts_ = nullptr, *top_parts_ = nullptr;
};

}  // namespace

SceneRun run_scene(const Backend& backend, const Scene& scene, bool again) {
  SceneRun run;
  try {
    Launcher launcher(backend, scene, run);
    launcher.prepare();
    launcher.launch(false);
    launcher.device().collect();
    if (again) {
      launcher.launch(true);
      launcher.device().compare();
    }
  } catch (const Error& error) {
    run.error = error.what();
  }
  return run;
}

}  // namespace galvani::gpu::check
