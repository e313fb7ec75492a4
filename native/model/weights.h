// A model is a table of views: every layer names its weights by (checkpoint, tensor). A graft is another table over the
// same mapped files; layers whose tensors are the same bytes are the same object, so pointer equality means shared
// work.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "model/config.h"
#include "ops/matmul.h"

namespace galvani {

struct Linear {
  Weight w;                 // (out, in), as stored
  std::vector<float> bias;  // (out) widened, or empty
  const float* bias_or_null() const { return bias.empty() ? nullptr : bias.data(); }
};

struct DecoderLayer {
  std::vector<float> norm1, norm2;  // (C)
  Linear q, k, v, o, gate, up, down;
};

struct VisionBlock {
  std::vector<float> norm1, norm2;
  Linear qkv, proj, gate, up, down;
};

struct VisionTower {
  Linear patch_embed;  // (Cv, patch_dim)
  std::vector<VisionBlock> blocks;
};

struct Projector {
  std::vector<float> norm;  // (Cv)
  Linear fc1, fc2;          // (merge²·Cv, merge²·Cv), (C, merge²·Cv)
};

struct Head {
  std::vector<float> norm;  // (C) final norm
  Weight w;                 // (V, C); the embedding when tied
};

// canonical tensor name (lib/models) → a view and the checkpoint that keeps it mapped.
struct TensorTable {
  struct Entry {
    std::shared_ptr<Checkpoint> checkpoint;
    std::string name;
  };
  std::map<std::string, Entry> entries;
};

struct Model {
  ModelConfig config;
  std::vector<std::shared_ptr<const DecoderLayer>> layers;
  std::shared_ptr<const VisionTower> vision;
  std::shared_ptr<const Projector> projector;
  std::shared_ptr<const Head> head;
  Weight embed;
  int64_t parameters = 0;
  std::vector<std::shared_ptr<Checkpoint>> checkpoints;  // keeps the mappings alive
};

// Builds models and remembers the parts they are made of, so that models over the same bytes share them.
class WeightStore {
 public:
  // Throws TENSOR_MISSING or SHAPE_MISMATCH naming checkpoint and tensor.
  std::shared_ptr<const Model> build(const ModelConfig& config, const TensorTable& table);

 private:
  using Key = std::vector<const void*>;
  std::map<Key, std::weak_ptr<const DecoderLayer>> layers_;
  std::map<Key, std::weak_ptr<const VisionTower>> towers_;
  std::map<Key, std::weak_ptr<const Projector>> projectors_;
  std::map<Key, std::weak_ptr<const Head>> heads_;
};

}  // namespace galvani
