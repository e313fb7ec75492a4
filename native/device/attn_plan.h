// The host planner: from query blocks and their key lists to launches of the attention kernels. Pure C++, no device.
//
// It drops what no row of a tile can see, chooses the kernel and the tile, reads a key prefix that several blocks share
// once for all of them (cascade), cuts long lists into parts that attn_combine merges, and sorts the longest work
// first.
//
// Bits. Where a row's list is cut depends on its own block (tokens, list, limits) and on the device, so a block's
// results do not depend on what else is in the batch. Two options give that up for speed: `cascade` groups blocks and
// `balance_batch` sizes the parts by the whole batch; both change rounding, never meaning.
#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "ops/gpu/attn_types.h"

namespace galvani::gpu {

// Consecutive query tokens that attend to one key list. Blocks are sorted by token and disjoint; tokens of no block are
// left alone. Blocks that share a prefix are best put next to each other: only neighbours are read together.
struct QueryBlock {
  int32_t token0, tokens;
  const PageRun* runs;  // the whole list, in order
  int32_t run_count;    // 0: all rows are empty
};

struct AttnPlanInput {
  int32_t heads, kv_heads, head_dim, tokens, segments;
  const QueryBlock* blocks;
  int32_t block_count;
  const int32_t* low = nullptr;           // (tokens), as in AttnParams; here and below host memory
  const int32_t* high = nullptr;          // (tokens)
  const HookProgram* programs = nullptr;  // its pointers are host memory too
  int32_t program_count = 0;
  const uint16_t* token_program = nullptr;  // (tokens)
  const uint8_t* token_class = nullptr;     // (tokens)
  bool readouts = false;                    // whether lse, entropy, … are wanted, and of which tokens:
  const int32_t* capture = nullptr;         // (tokens), as in AttnParams
};

enum class AttnKernel : uint8_t { kMma, kDecode, kWgmma };
inline constexpr int kAttnKernels = 3;
const char* attn_kernel_name(AttnKernel kernel);
int32_t attn_kernel_rows(AttnKernel kernel);

struct AttnPlanOptions {
  int32_t multiprocessors = 132;
  bool wgmma = false;                // the device has attn_wgmma (compute capability 9.0)
  std::optional<AttnKernel> kernel;  // this one for everything
  int32_t split_runs = 0;            // > 0: the length of every part; 0: chosen
  bool cascade = false;
  int32_t cascade_runs = 8;  // a shared prefix shorter than this is read by every block. Not measured yet.
  bool balance_batch = false;
  bool top_k = false;  // also emit what topk_refine reads
};

struct AttnPlan {
  std::vector<AttnItem> items[kAttnKernels];  // by kernel, longest first
  std::vector<PageRun> runs;
  std::vector<CombineRow> rows;  // attn_combine; by token, then head
  std::vector<AttnPart> parts;
  int32_t slots = 0;                 // partial states
  int32_t run_max_stride = 0;        // columns of run_max
  bool has_edges = false;            // AttnParams::has_edges
  std::vector<CombineRow> top_rows;  // topk_refine, which reads run_max and the final lse
  std::vector<AttnPart> top_parts;   // slot −1 where the part wrote the final output

  const std::vector<AttnItem>& of(AttnKernel kernel) const { return items[static_cast<int>(kernel)]; }
};

// Throws kBadArgument for lists no kernel could read.
AttnPlan plan_attention(const AttnPlanInput& input, const AttnPlanOptions& options);

// Items of attn_probe for one block: every key of its list × every head, over the tokens [token0, token0 + tokens),
// which lie in the block. Key i goes to column base + i. `run0`: where the block's list starts in the device's runs.
std::vector<ProbeItem> plan_probe(const QueryBlock& block, int32_t heads, int32_t token0, int32_t tokens, int32_t run0,
                                  int64_t base);

// Edges as kernels want them: gamma at least kLeastGamma, keys removed by exactly kBlocked. Throws kBadArgument for a
// negative gain or post, or a NaN.
std::vector<Edge> device_edges(const Edge* edges, int64_t count);

// beta ≤ this removes keys.
bool edge_blocks(const Edge& edge);

}  // namespace galvani::gpu
