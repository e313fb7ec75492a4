// One decoder layer over the rows of many runs at once: prefill nodes and decode steps alike.
//
//   h = norm1(x);  q, k, v = h Wᵀ + b;  rotate q, k;  publish k, v;  z = attention(q, keys)
//   x += z Woᵀ;    x += swiglu(norm2(x) Wgᵀ, norm2(x) Wuᵀ) Wdᵀ
//
// with the hook sites of sites.h in that order. Rows of one weight source are contiguous in the matrix, so a graft or a
// batch of several models is a few matmuls more, not a loop over models.
#pragma once
#include <memory>
#include <vector>

#include "model/capture.h"
#include "model/kv_pages.h"

namespace galvani {

struct BoundEdit {
  const Edit* edit = nullptr;
  int32_t source = -1;  // block of the source run
};

// Rows of one run in the matrix of a pass: `full` rows take the whole layer, the others only give keys and values.
struct Block {
  const DecoderLayer* weights = nullptr;
  std::vector<int32_t> rows;  // logical rows; the first `full` are full
  int32_t full = 0;
  int64_t full_begin = 0, keys_begin = 0;  // matrix rows
  std::vector<int32_t> index;              // logical row − index_from → matrix row, −1 elsewhere
  int32_t index_from = 0;
  int32_t base = -1;  // block that owns the rows before own_from
  int32_t own_from = 0;
  int32_t prompt_rows = 0;
  std::vector<BoundEdit> edits;
  std::vector<CaptureSink*> captures;
  const std::vector<int32_t>* kv_source = nullptr;  // Node::kv_source
  const std::vector<int32_t>* cuts = nullptr;
  const KeyList* prefix = nullptr;  // decode: keys of the prompt
  KeyList* keys = nullptr;          // prefill: assembled here; decode: the run's own tail
  std::shared_ptr<KvPage>* page = nullptr;
  int32_t* page_used = nullptr;
};

struct LayerInput {
  int32_t layer = 0;
  float* x = nullptr;  // (R, C), advanced in place
  int64_t rows = 0;
  const float *cos = nullptr, *sin = nullptr;  // (R, D/2)
  std::vector<Block>* blocks = nullptr;        // in an order where base and source blocks come first
};

class DecoderPass {
 public:
  DecoderPass(const DecoderConfig& config, KvArena& arena, ThreadPool& pool)
      : config_(config), arena_(arena), pool_(pool) {}

  // Lays the blocks' rows out, grouped by weights, full rows of a group first. Returns R.
  static int64_t arrange(std::vector<Block>& blocks);
  // Matrix row of a logical row of a block, following bases. −1 when nobody computes it.
  static int64_t locate(const std::vector<Block>& blocks, int32_t block, int32_t row);

  void forward(const LayerInput& input);

 private:
  struct Group {
    const DecoderLayer* weights;
    int64_t begin, full, rows;
  };
  void site(const LayerInput& in, Site site, float* x, int64_t width, int64_t head_dim, bool full_only);
  void publish_keys(const LayerInput& in);

  DecoderConfig config_;
  KvArena& arena_;
  ThreadPool& pool_;
  std::vector<Group> groups_;
  std::vector<float> h_, q_, k_, v_, z_, out_, gate_, up_;
};

}  // namespace galvani
