// Reading and writing checkpoints in the safetensors format (huggingface.co/docs/safetensors):
//
//   8 bytes    N, little-endian uint64
//   N bytes    JSON object: name → {dtype, shape, data_offsets: [begin, end)}, and "__metadata__": string → string
//   the rest   the tensors' bytes; offsets count from here; together they cover it without gap or overlap
//
// A header is hostile until proven otherwise: every violation is BAD_FILE naming the file and the tensor; element
// types we do not hold (F4, F6, C64, …) are UNSUPPORTED. After open() every view is safe to read to its end.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "core/tensor.h"
#include "io/mapped_file.h"

namespace galvani {

// One folder (model.safetensors, or shards named by model.safetensors.index.json) or one .safetensors file, mapped,
// not read; or tensors held in memory (hold). Immutable after open(), so any number of threads may use it.
class Checkpoint {
 public:
  // Errors: FILE_NOT_FOUND (folder without a checkpoint, missing shard: names shard and index), BAD_FILE (header;
  // index that names a tensor its shard lacks; a tensor in two shards), UNSUPPORTED, IO.
  static std::shared_ptr<Checkpoint> open(const std::string& path);

  struct Held {
    std::string name;
    DType dtype;
    std::vector<int64_t> shape;
  };
  // Tensors in memory of the checkpoint's own; `what` stands for its path. Their bytes are whatever was there: fill
  // them through held() before anything else reads them. BAD_ARGUMENT: a name twice; OUT_OF_MEMORY.
  static std::shared_ptr<Checkpoint> hold(std::string what, const std::vector<Held>& tensors);
  // Where a held tensor's bytes lie.
  std::byte* held(const std::string& name);

  // nullptr when absent. The pointer lives as long as the checkpoint.
  const TensorView* find(const std::string& name) const;
  // TENSOR_MISSING names the checkpoint and the closest name it has.
  const TensorView& at(const std::string& name) const;

  std::vector<std::string> names() const;            // sorted
  const std::string& path() const { return path_; }  // as given to open() or hold()
  int64_t bytes() const { return bytes_; }           // of tensor data, all shards
  std::vector<std::string> files() const;            // paths, in shard order; none of held tensors
  // Path of the file that holds a tensor, path() of a held one; TENSOR_MISSING as at().
  const std::string& file_of(const std::string& name) const;
  // Where a tensor's bytes lie, for readers that do not want the mapping. UNSUPPORTED for held tensors.
  struct Stored {
    DType dtype;
    std::vector<int64_t> shape;
    std::string file;
    int64_t offset, bytes;
  };
  Stored stored(const std::string& name) const;
  // "__metadata__" of all shards; the first shard wins on a key in both.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  // Where a tensor's bytes lie: the file's place in files(), and the offset within it. Sorting by it reads in order.
  // UNSUPPORTED for held tensors.
  std::pair<size_t, int64_t> place_of(const std::string& name) const;
  // Hints to the kernel around one pass over elements [begin, end) of a tensor (see MappedFile). will_need may reach
  // past the tensor's end: what follows in the file is read next.
  void will_need(const std::string& name, int64_t begin, int64_t end) const;
  void done_with(const std::string& name, int64_t begin, int64_t end) const;
  void done_with(const std::string& name) const;

 private:
  struct Entry {
    mutable TensorView view;
    size_t file;  // index into files_, or kHeld
    const std::byte* mapped;
    bool aligned;  // to its element size in the mapping
  };
  static constexpr size_t kHeld = static_cast<size_t>(-1);
  explicit Checkpoint(std::string path) : path_(std::move(path)) {}
  void add_file(const std::string& file);
  const Entry& entry(const std::string& name) const;
  const MappedFile& file_of(const Entry& entry) const;
  const TensorView& view_of(const Entry& entry) const;

  std::string path_;
  int64_t bytes_ = 0;
  std::vector<std::shared_ptr<MappedFile>> files_;
  std::map<std::string, Entry> entries_;
  std::map<std::string, std::string> metadata_;
  mutable std::mutex copies_mutex_;
  mutable std::vector<std::unique_ptr<std::byte[]>> copies_;  // held tensors; misaligned ones, when first asked for
};

// Writes one file: declare every tensor, write their bytes in any order and in pieces, finish. The file appears under
// its name complete or not at all (temporary file beside it, fsync, rename); without finish() nothing stays behind.
// Layout as the reference writer's: larger element types first, then by name, header padded so that data are aligned.
// Equal input gives an equal file. write() may be called from several threads once start() was.
class SafetensorsWriter {
 public:
  explicit SafetensorsWriter(std::string path, std::map<std::string, std::string> metadata = {});
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // BAD_ARGUMENT: a name twice, "__metadata__", not UTF-8, a negative or overflowing shape, after the first write.
  void declare(const std::string& name, DType dtype, const std::vector<int64_t>& shape);
  // Creates the file and writes its header; the first write does it otherwise.
  void start();
  // `bytes` bytes at `offset` within the tensor. IO when the disk is full.
  void write(const std::string& name, const void* data, int64_t bytes, int64_t offset = 0);
  // BAD_ARGUMENT when a declared tensor has not received exactly its bytes.
  void finish();

 private:
  struct Slot {
    DType dtype;
    std::vector<int64_t> shape;
    int64_t bytes;
    int64_t begin = 0;  // within the data section
    int64_t written = 0;
  };
  void put(const void* data, int64_t bytes, int64_t at);
  [[noreturn]] void fail(const char* action, int error) const;

  std::string path_, temporary_;
  std::map<std::string, std::string> metadata_;
  std::map<std::string, Slot> slots_;
  int64_t data_start_ = 0;
  int fd_ = -1;
  std::mutex written_mutex_;
};

}  // namespace galvani
