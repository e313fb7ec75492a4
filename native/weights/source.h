// What a merge reads as one tensor: stored elements, rows gathered by token, or a weight with its adapter applied.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "io/file_reader.h"
#include "io/safetensors.h"
#include "ops/combine.h"

namespace galvani {

// Stored elements as float32. F64 is rounded; integers are a caller's bug.
void widen(const void* from, DType dtype, int64_t count, float* to);

// One open descriptor per file, shared by the tensors in it. Not thread-safe.
class Readers {
 public:
  std::shared_ptr<FileReader> of(const std::string& path);

 private:
  std::map<std::string, std::shared_ptr<FileReader>> open_;
};

// The elements of one tensor of a checkpoint, of any float dtype.
class StoredSource final : public FloatSource {
 public:
  // TENSOR_MISSING; UNSUPPORTED for integers.
  StoredSource(const Checkpoint& checkpoint, const std::string& name, Readers& readers);
  void read(int64_t begin, int64_t count, float* out) const override;
  void read_bytes(int64_t begin, int64_t bytes, void* out) const;  // as stored; any dtype
  void will_need() const { file_->will_need(stored_.offset, stored_.bytes); }
  // Elements [begin, end), which may lie past the tensor: what follows it in the file is read next.
  void will_need(int64_t begin, int64_t end) const {
    const int64_t size = dtype_size(stored_.dtype);
    file_->will_need(stored_.offset + begin * size, (end - begin) * size);
  }
  const Checkpoint::Stored& stored() const { return stored_; }

 private:
  Checkpoint::Stored stored_;
  std::shared_ptr<FileReader> file_;
};

// W + scale · B A, without ever holding W or B A. With `transposed`, W + scale · (B A)ᵀ (embeddings, Conv1D layers).
class AdapterSource final : public FloatSource {
 public:
  // a (rank, in), b (out, rank). SHAPE_MISMATCH names what.
  AdapterSource(std::shared_ptr<const StoredSource> weight, const StoredSource& a, const StoredSource& b, double scale,
                bool transposed, const std::string& what);
  void read(int64_t begin, int64_t count, float* out) const override;

 private:
  std::shared_ptr<const StoredSource> weight_;
  int64_t columns_, rank_;
  std::vector<double> left_;  // (rows, rank), scale included
  std::vector<float> right_;  // (rank, columns)
};

// Rows gathered from the tables of several vocabularies.
struct RowMap {
  std::vector<std::shared_ptr<const FloatSource>> tables;
  std::vector<int64_t> first;  // (tables + 1) number of each table's first row when all are counted through
  std::vector<int32_t> rows;   // output row → row counted through; −1 zeros; −2 − i the mean of blends[i]
  std::vector<std::vector<int32_t>> blends;
  int64_t padding = 0;  // rows after `rows`, each the mean of all before
  int64_t columns = 1;
};
class GatheredSource final : public FloatSource {
 public:
  // BAD_ARGUMENT when the map points outside the tables.
  GatheredSource(RowMap map, const std::string& what);
  void read(int64_t begin, int64_t count, float* out) const override;

 private:
  void read_row(int64_t row, int64_t begin, int64_t count, float* out) const;
  void read_counted(int64_t row, int64_t begin, int64_t count, float* out) const;

  RowMap map_;
  std::vector<float> mean_;  // (columns) when there is padding
};

}  // namespace galvani
