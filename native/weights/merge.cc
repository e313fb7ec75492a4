#include "weights/merge.h"

#include <algorithm>
#include <atomic>

#include "core/status.h"
#include "io/json.h"
#include "weights/source.h"

namespace galvani {
namespace {

// FNV-1a: a tensor's random numbers hang on its name, not on its place in the recipe or the file.
uint64_t seed_of(const std::string& name, uint64_t seed) {
  uint64_t hash = 0xcbf29ce484222325ull ^ seed * 0x9e3779b97f4a7c15ull;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  return hash;
}

int64_t elements_of(const std::vector<int64_t>& shape) {
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  return n;
}

class Merger {
 public:
  Merger(const std::vector<std::shared_ptr<Checkpoint>>& checkpoints, uint64_t seed, ThreadPool& pool,
         const std::function<void()>& poll)
      : checkpoints_(checkpoints), seed_(seed), pool_(pool), poll_(poll) {}

  using Bytes = std::function<void(int64_t offset, int64_t bytes, const void* data)>;

  void write(const MergeTensor& tensor, const Bytes& bytes) {
    if (tensor.method == "copy") return copy(tensor, bytes);
    if (!is_float(tensor.dtype))
      throw Error(Code::kUnsupported, "tensor " + quoted(tensor.name) + ": not a float dtype");
    std::vector<std::shared_ptr<const FloatSource>> sources;
    CombineJob job{tensor.method, tensor.name,   tensor.shape, {},
                   tensor.base,   tensor.shared, tensor.each,  seed_of(tensor.name, seed_)};
    for (const MergeInput& input : tensor.inputs) {
      sources.push_back(open(tensor, input));
      job.inputs.push_back(sources.back().get());
    }
    const int64_t size = dtype_size(tensor.dtype);
    combine(
        job, pool_,
        [&](int64_t begin, int64_t count, const float* values) {
          if (tensor.dtype == DType::kF32) return bytes(begin * 4, count * 4, values);
          std::vector<double> stored(static_cast<size_t>(count * size + 7) / 8);  // aligned for every dtype
          narrow(values, count, tensor.dtype, stored.data());
          bytes(begin * size, count * size, stored.data());
        },
        poll_);
  }

 private:
  const Checkpoint& checkpoint(const MergeTensor& tensor, size_t index) const {
    if (index >= checkpoints_.size())
      throw Error(Code::kBadArgument, "tensor " + quoted(tensor.name) + ": no checkpoint " + std::to_string(index));
    return *checkpoints_[index];
  }

  void check_elements(const MergeTensor& tensor, int64_t got, const MergeTable& table) const {
    if (got == elements_of(tensor.shape)) return;
    const Checkpoint& from = checkpoint(tensor, table.checkpoint);
    throw Error(Code::kShapeMismatch, "tensor " + quoted(tensor.name) + ": expected " + shape_text(tensor.shape) +
                                          ", got " + shape_text(from.stored(table.name).shape) + " of " +
                                          quoted(table.name) + " in " + from.path());
  }

  std::shared_ptr<const FloatSource> open(const MergeTensor& tensor, const MergeTable& table) {
    const Checkpoint& from = checkpoint(tensor, table.checkpoint);
    auto stored = std::make_shared<const StoredSource>(from, table.name, readers_);
    if (!is_float(stored->stored().dtype))
      throw Error(Code::kUnsupported, "tensor " + quoted(table.name) + " in " + from.path() +
                                          ": cannot merge elements of type " + dtype_name(stored->stored().dtype));
    stored->will_need();
    if (!table.adapter) return stored;
    const Checkpoint& adapter = checkpoint(tensor, table.adapter->checkpoint);
    return std::make_shared<const AdapterSource>(
        stored, StoredSource(adapter, table.adapter->a, readers_), StoredSource(adapter, table.adapter->b, readers_),
        table.adapter->scale, table.adapter->transposed, adapter.path() + ": tensor " + quoted(table.adapter->a));
  }

  std::shared_ptr<const FloatSource> open(const MergeTensor& tensor, const MergeInput& input) {
    if (input.tables.empty())
      throw Error(Code::kBadArgument, "tensor " + quoted(tensor.name) + ": an input without a table");
    const auto rows_of = [&](const MergeTable& table) {
      return checkpoint(tensor, table.checkpoint).stored(table.name).shape;
    };
    if (!input.gathers) {
      check_elements(tensor, elements_of(rows_of(input.tables[0])), input.tables[0]);
      return open(tensor, input.tables[0]);
    }
    RowMap map;
    const int64_t rows = static_cast<int64_t>(input.rows.size()) + input.padding;
    if (tensor.shape.empty() || tensor.shape[0] != rows || rows == 0)
      throw Error(Code::kShapeMismatch, "tensor " + quoted(tensor.name) + ": " + std::to_string(rows) +
                                            " gathered rows do not make " + shape_text(tensor.shape));
    map.columns = std::max<int64_t>(1, elements_of(tensor.shape) / rows);
    map.first.push_back(0);
    for (const MergeTable& table : input.tables) {
      const std::vector<int64_t> shape = rows_of(table);
      if (shape.empty() || elements_of(shape) != shape[0] * map.columns) check_elements(tensor, -1, table);  // throws
      map.tables.push_back(open(tensor, table));
      map.first.push_back(map.first.back() + shape[0]);
    }
    map.rows = input.rows;
    map.blends = input.blends;
    map.padding = input.padding;
    return std::make_shared<const GatheredSource>(std::move(map), "tensor " + quoted(tensor.name));
  }

  // The stored bytes, unread: NaN payloads, negative zeros and integers stay what they are.
  void copy(const MergeTensor& tensor, const Bytes& bytes) {
    if (tensor.inputs.size() != 1 || tensor.inputs[0].tables.size() != 1 || tensor.inputs[0].gathers ||
        tensor.inputs[0].tables[0].adapter)
      throw Error(Code::kBadArgument, "tensor " + quoted(tensor.name) + ": copy: expected one plain input");
    const MergeTable& table = tensor.inputs[0].tables[0];
    const StoredSource source(checkpoint(tensor, table.checkpoint), table.name, readers_);
    check_elements(tensor, elements_of(source.stored().shape), table);
    if (source.stored().dtype != tensor.dtype)
      throw Error(Code::kBadArgument, "tensor " + quoted(tensor.name) + ": copy: expected " + dtype_name(tensor.dtype) +
                                          ", got " + dtype_name(source.stored().dtype));
    source.will_need();
    constexpr int64_t kPiece = int64_t{1} << 20;
    const int64_t total = source.stored().bytes;
    pool_.run((total + kPiece - 1) / kPiece, [&](int64_t piece) {
      if (poll_) poll_();
      const int64_t begin = piece * kPiece, count = std::min(kPiece, total - begin);
      std::vector<std::byte> buffer(static_cast<size_t>(count));
      source.read_bytes(begin, count, buffer.data());
      bytes(begin, count, buffer.data());
    });
  }

  const std::vector<std::shared_ptr<Checkpoint>>& checkpoints_;
  uint64_t seed_;
  ThreadPool& pool_;
  const std::function<void()>& poll_;
  Readers readers_;
};

}  // namespace

void write_merged(const std::string& path, const std::map<std::string, std::string>& metadata,
                  const std::vector<std::shared_ptr<Checkpoint>>& checkpoints, const std::vector<MergeTensor>& tensors,
                  uint64_t seed, ThreadPool& pool, const MergeProgress& progress, const std::function<void()>& poll) {
  SafetensorsWriter writer(path, metadata);
  int64_t total = 0;
  for (const MergeTensor& tensor : tensors) {
    writer.declare(tensor.name, tensor.dtype, tensor.shape);
    total += elements_of(tensor.shape) * dtype_size(tensor.dtype);
  }
  writer.start();
  Merger merger(checkpoints, seed, pool, poll);
  std::atomic<int64_t> done{0};
  for (const MergeTensor& tensor : tensors) {
    if (poll) poll();
    merger.write(tensor, [&](int64_t offset, int64_t bytes, const void* data) {
      writer.write(tensor.name, data, bytes, offset);
      const int64_t now = done.fetch_add(bytes) + bytes;
      if (progress) progress(now, total);
    });
  }
  writer.finish();
}

}  // namespace galvani
