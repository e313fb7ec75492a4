// The architecture of a Qwen2.5-VL-class model in plain numbers, as lib/models reads them from config.json.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <vector>

namespace galvani {

struct DecoderConfig {
  int32_t layers = 0;
  int32_t width = 0;  // C
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t mlp_width = 0;
  int32_t vocab = 0;
  float rms_eps = 1e-6f;
  float rope_theta = 1e6f;
  std::array<int32_t, 3> mrope_section{};  // frequencies turned by (time, height, width); sums to head_dim / 2
};

struct VisionConfig {
  int32_t layers = 0;
  int32_t width = 0;
  int32_t heads = 0;
  int32_t mlp_width = 0;
  int32_t patch_dim = 0;  // channels · temporal patch · patch²
  int32_t patch_size = 0;
  int32_t merge_size = 0;   // patches per side of one image token
  int32_t window_size = 0;  // pixels per side of an attention window
  std::vector<int32_t> full_attention_layers;
  int32_t out_width = 0;
  float rms_eps = 1e-6f;
};

struct ModelConfig {
  DecoderConfig decoder;
  std::optional<VisionConfig> vision;  // none: a text-only checkpoint
};

}  // namespace galvani
