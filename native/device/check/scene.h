// Random attention problems for the bench: everything that attn_types.h can say, drawn from a seed.
//
// Queries, keys and values are kept as the bfloat16 bits the device gets, so that every reference sees the same
// numbers. A scene is host memory only; run.h brings it to a device.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "device/attn_plan.h"

namespace galvani::gpu::check {

struct Program {
  std::vector<uint8_t> head_class;  // (H); each vector may be empty: null
  std::vector<Edge> edges;          // [head class][row class][segments], as the user wrote them: gamma may be 0
  std::vector<float> head_scale;    // (H)
  std::vector<float> head_add;      // (H, D)
  int32_t row_classes = 1;
};

struct Probe {
  int32_t block, token0, tokens;
  int64_t base;  // column of the key with logical index 0; may be negative
};

struct Scene {
  uint64_t seed = 0;
  int32_t heads, kv_heads, head_dim, tokens, segments;
  float scale;
  int64_t q_stride, out_stride, pages;
  std::vector<uint16_t> q;     // (tokens, q_stride); the gaps between rows hold NaN
  std::vector<uint16_t> k, v;  // (pages, KV heads, kPageKeys, D)
  std::vector<int32_t> low, high;
  std::vector<Program> programs;  // empty: null
  std::vector<uint16_t> token_program;
  std::vector<uint8_t> token_class;
  std::vector<int32_t> capture;
  int32_t capture_rows;
  std::vector<std::vector<PageRun>> lists;  // by block
  std::vector<QueryBlock> blocks;           // their runs point into `lists`
  std::vector<Probe> probes;
  int64_t key_span = 0;
  bool want_lse, want_entropy, want_mass, want_key_mass, want_pattern;
  int32_t top_k = 0;  // > 0: with run_max
  AttnPlanOptions plan;

  Scene() = default;
  Scene(Scene&&) = default;
  Scene(const Scene&) = delete;  // blocks point into lists

  int32_t ratio() const { return heads / kv_heads; }
  int32_t low_of(int32_t token) const;
  int32_t high_of(int32_t token) const;
  const Program* program_of(int32_t token) const;
  // The edit of one row and segment, with the gain that kernels see; {1, 0, 1} without one.
  Edge edge(int32_t token, int32_t head, int32_t segment) const;
  int32_t capture_of(int32_t token) const { return capture.empty() ? token : capture[token]; }
  const uint16_t* key(uint32_t page, int32_t kv_head, int32_t slot) const {
    return k.data() + ((int64_t{page} * kv_heads + kv_head) * kPageKeys + slot) * head_dim;
  }
  const uint16_t* value(uint32_t page, int32_t kv_head, int32_t slot) const {
    return v.data() + ((int64_t{page} * kv_heads + kv_head) * kPageKeys + slot) * head_dim;
  }
  int64_t macs() const;      // Σ rows · keys of their lists · D, twice
  std::string name() const;  // one line
};

enum class Size { kSmall, kReal };

struct SceneOptions {
  Size size = Size::kSmall;
  std::vector<int32_t> head_dims{64, 80, 96, 128};
  std::optional<AttnKernel> kernel;  // forced
  bool wgmma = false;                // may be planned
  int32_t multiprocessors = 132;
  int64_t scores = 0;  // rows · heads · keys of a scene, about; 0: by size and kernel
};

// The same seed and options give the same scene everywhere.
Scene random_scene(uint64_t seed, const SceneOptions& options);

}  // namespace galvani::gpu::check
