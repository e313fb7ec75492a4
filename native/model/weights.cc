#include "model/weights.h"

#include "core/status.h"

namespace galvani {
namespace {

// Reads tensors by canonical name, checks their shapes and collects the addresses that identify a part.
class Reader {
 public:
  explicit Reader(const TensorTable& table) : table_(table) {}

  Weight weight(const std::string& canonical, int64_t rows, int64_t columns) {
    const TensorView& view = find(canonical);
    // A convolution kernel (out, in, t, h, w) over non-overlapping patches is the linear layer (out, rest).
    if (view.shape.empty() || view.shape[0] != rows || view.elements() != rows * columns)
      fail(canonical, view, {rows, columns});
    if (view.dtype != DType::kF32 && view.dtype != DType::kBF16 && view.dtype != DType::kF16)
      throw Error(Code::kUnsupported, where(canonical) + ": dtype " + dtype_name(view.dtype) +
                                          "; the engine runs F32, BF16 and F16 weights");
    key.push_back(view.data);
    parameters += view.elements();
    return {view.data, view.dtype, rows, columns};
  }

  std::vector<float> vector(const std::string& canonical, int64_t size) {
    const TensorView& view = find(canonical);
    if (view.shape.size() != 1 || view.shape[0] != size) fail(canonical, view, {size});
    if (!is_float(view.dtype))
      throw Error(Code::kUnsupported, where(canonical) + ": dtype " + dtype_name(view.dtype) + " is not a float type");
    key.push_back(view.data);
    parameters += size;
    std::vector<float> values(size);
    for (int64_t i = 0; i < size; ++i) values[i] = load_float(view.data, view.dtype, i);
    return values;
  }

  Linear linear(const std::string& prefix, int64_t rows, int64_t columns, bool bias) {
    Linear layer;
    layer.w = weight(prefix + ".weight", rows, columns);
    if (bias) layer.bias = vector(prefix + ".bias", rows);
    return layer;
  }

  std::vector<const void*> key;
  int64_t parameters = 0;

 private:
  const TensorTable::Entry& entry(const std::string& canonical) const {
    const auto it = table_.entries.find(canonical);
    if (it == table_.entries.end()) throw Error(Code::kTensorMissing, "model table has no entry for " + canonical);
    return it->second;
  }
  const TensorView& find(const std::string& canonical) const {
    const TensorTable::Entry& e = entry(canonical);
    return e.checkpoint->at(e.name);
  }
  std::string where(const std::string& canonical) const {
    const TensorTable::Entry& e = entry(canonical);
    return e.checkpoint->path() + ": tensor " + e.name;
  }
  [[noreturn]] void fail(const std::string& canonical, const TensorView& view,
                         const std::vector<int64_t>& expected) const {
    throw Error(Code::kShapeMismatch, where(canonical) + ": expected " + shape_text(expected) +
                                          " from config.json, got " + shape_text(view.shape));
  }

  const TensorTable& table_;
};

template <typename T>
std::shared_ptr<const T> shared(std::map<std::vector<const void*>, std::weak_ptr<const T>>& cache,
                                const std::vector<const void*>& key, T&& part) {
  auto& slot = cache[key];
  if (auto existing = slot.lock()) return existing;
  auto made = std::make_shared<const T>(std::move(part));
  slot = made;
  // Addresses are used again once blends are dropped; what is gone must not pile up.
  std::erase_if(cache, [](const auto& entry) { return entry.second.expired(); });
  return made;
}

}  // namespace

std::shared_ptr<const Model> WeightStore::build(const ModelConfig& config, const TensorTable& table) {
  auto model = std::make_shared<Model>();
  model->config = config;
  const DecoderConfig& d = config.decoder;
  const int64_t C = d.width, HD = int64_t{d.heads} * d.head_dim, GD = int64_t{d.kv_heads} * d.head_dim;
  auto named = [&](const std::string& name) { return table.entries.count(name) > 0; };

  for (int32_t i = 0; i < d.layers; ++i) {
    const std::string at = "layers." + std::to_string(i) + ".";
    Reader r(table);
    DecoderLayer layer;
    layer.norm1 = r.vector(at + "norm1", C);
    layer.norm2 = r.vector(at + "norm2", C);
    layer.q = r.linear(at + "q", HD, C, named(at + "q.bias"));
    layer.k = r.linear(at + "k", GD, C, named(at + "k.bias"));
    layer.v = r.linear(at + "v", GD, C, named(at + "v.bias"));
    layer.o.w = r.weight(at + "o.weight", C, HD);
    layer.gate.w = r.weight(at + "gate", d.mlp_width, C);
    layer.up.w = r.weight(at + "up", d.mlp_width, C);
    layer.down.w = r.weight(at + "down", C, d.mlp_width);
    model->parameters += r.parameters;
    model->layers.push_back(shared(layers_, r.key, std::move(layer)));
  }

  {
    Reader r(table);
    model->embed = r.weight("embed", d.vocab, C);
    model->parameters += r.parameters;
  }
  {
    Reader r(table);
    Head head;
    head.norm = r.vector("norm", C);
    const bool tied = !named("head");
    head.w = r.weight(tied ? "embed" : "head", d.vocab, C);
    model->parameters += r.parameters - (tied ? int64_t{d.vocab} * C : 0);
    model->head = shared(heads_, r.key, std::move(head));
  }

  if (config.vision) {
    const VisionConfig& v = *config.vision;
    const int64_t W = v.width, merged = W * v.merge_size * v.merge_size;
    Reader r(table);
    VisionTower tower;
    tower.patch_embed.w = r.weight("vision.patch_embed", W, v.patch_dim);
    for (int32_t i = 0; i < v.layers; ++i) {
      const std::string at = "vision.blocks." + std::to_string(i) + ".";
      VisionBlock block;
      block.norm1 = r.vector(at + "norm1", W);
      block.norm2 = r.vector(at + "norm2", W);
      block.qkv = r.linear(at + "qkv", 3 * W, W, true);
      block.proj = r.linear(at + "proj", W, W, true);
      block.gate = r.linear(at + "gate", v.mlp_width, W, true);
      block.up = r.linear(at + "up", v.mlp_width, W, true);
      block.down = r.linear(at + "down", W, v.mlp_width, true);
      tower.blocks.push_back(std::move(block));
    }
    model->parameters += r.parameters;
    model->vision = shared(towers_, r.key, std::move(tower));

    Reader p(table);
    Projector projector;
    projector.norm = p.vector("vision.merger.norm", W);
    projector.fc1 = p.linear("vision.merger.fc1", merged, merged, true);
    projector.fc2 = p.linear("vision.merger.fc2", C, merged, true);
    model->parameters += p.parameters;
    model->projector = shared(projectors_, p.key, std::move(projector));
  }

  std::map<Checkpoint*, std::shared_ptr<Checkpoint>> unique;
  for (const auto& [name, entry] : table.entries) unique[entry.checkpoint.get()] = entry.checkpoint;
  for (auto& [raw, checkpoint] : unique) model->checkpoints.push_back(checkpoint);
  return model;
}

}  // namespace galvani
