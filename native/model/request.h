// What the engine is asked and what it answers, as plain structs. bindings/engine.cc converts them from and to
// lib/native.ts, field by field, same spelling.
#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/interventions.h"
#include "model/weights.h"
#include "ops/sample.h"

namespace galvani {

struct ImageInput {
  const float* pixels = nullptr;  // (patches, patch_dim), merge-grouped order
  std::array<int32_t, 3> grid{};  // patches in (time, height, width)
  int64_t patches() const { return int64_t{grid[0]} * grid[1] * grid[2]; }
};

struct ImagePlace {
  int32_t image = 0;  // index into Request::images
  int32_t start = 0;  // first image-token row
  int32_t count = 0;  // image tokens
};

struct PromptInput {
  std::vector<int32_t> ids;        // (n)
  std::vector<int32_t> positions;  // (3, n) time, height, width
  int32_t next_position = 0;       // of the first generated token
  std::vector<ImagePlace> images;
  int32_t rows() const { return static_cast<int32_t>(ids.size()); }
};

struct TrialInput {
  int32_t prompt = 0;
  std::shared_ptr<const Model> model;
  std::vector<Edit> edits;
  int32_t captures = 0;  // slots
  int32_t max_tokens = 0;
  SampleOptions sampling;
  uint64_t seed = 0;
  std::vector<int32_t> stop_tokens;
  std::vector<int32_t> score_tokens;
  int32_t kl_to = -1;  // trial index
};

struct Request {
  std::vector<ImageInput> images;
  std::vector<PromptInput> prompts;
  std::vector<TrialInput> trials;
};

struct CaptureOutput {
  std::vector<int64_t> shape;
  std::vector<float> data;
  // topKeys alone: logical row of each key, −1 where fewer are visible; same shape as data.
  std::optional<std::vector<int32_t>> keys;
};

struct TrialOutput {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  bool truncated = false;
  std::vector<float> score_logprobs;
  double kl = 0.0;
  std::vector<CaptureOutput> captures;
};

struct RunStatistics {
  int64_t prefill_layer_rows = 0;
  int64_t naive_layer_rows = 0;
  int64_t vision_layer_rows = 0;
  int64_t naive_vision_layer_rows = 0;
  int64_t decode_layer_rows = 0;
  int64_t kv_bytes = 0;
  double vision_ms = 0, prefill_ms = 0, decode_ms = 0;
};

struct Response {
  std::vector<TrialOutput> trials;
  RunStatistics stats;
};

}  // namespace galvani
