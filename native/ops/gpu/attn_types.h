// What host and device share about attention on a GPU: plain structs, read by nvcc, by g++ and by the planner.
//
// Keys live in pages of kPageKeys rows; the arena of a layer is k, v: [page][KV head][kPageKeys][D], bfloat16. A page
// run names up to kPageKeys consecutive slots of one page whose keys are treated alike (one segment, one edit per row).
// A sequence is a list of runs: swapping, prefix sharing and grafts are different lists over the same pages. Rows of a
// page that were never written hold zeros (kv_append clears the rest of a page whose first slot it writes), so that
// whole pages may be multiplied by weights of 0.
//
// A work item is a tile of query rows against a list of runs: its rows are the pairs (token, head), token-major. A row
// sees the key with logical index i when low[token] ≤ i ≤ high[token]: causal, bidirectional and windowed are values.
// Meaning of edits and read-outs: ops/attention_hooks.h. The read-outs describe the softmax itself; `post` and the head
// edits act on the output only.
#pragma once
#include <cstdint>

namespace galvani::gpu {

// The bits of a bfloat16; arithmetic goes through dev.h.
struct bf16 {
  uint16_t bits;
};

inline constexpr int kPageKeys = 64;
inline constexpr int kMaxSegments = 16;
inline constexpr int kDecodeRows = 16;  // tile rows of attn_decode
inline constexpr int kMmaRows = 64;     // of attn_mma
inline constexpr int kWgmmaRows = 128;  // of attn_wgmma

struct PageRun {
  uint32_t page;
  int32_t index;    // logical index of the first key; the others follow
  uint16_t count;   // 1 … kPageKeys − first
  uint8_t first;    // slot of the first key inside its page
  uint8_t segment;  // < kMaxSegments: column of mass and of edges
  uint32_t unused;
};
static_assert(sizeof(PageRun) == 16);

struct AttnItem {
  int32_t token0;       // first query token
  int32_t tokens;       // tile row i is token0 + i / heads, head0 + i % heads; tokens · heads ≤ rows of the kernel
  int32_t head0;        // heads of one item share kv_head
  int32_t heads;
  int32_t kv_head;
  int32_t run_begin;    // runs [run_begin, run_begin + run_count), at least one
  int32_t run_count;
  int32_t run_order;    // place of its first run in the rows' whole key list: column of run_max
  int32_t low_max;      // a run inside [low_max, high_min] is wholly visible to every row
  int32_t high_min;
  int32_t slot;         // < 0: writes the final output; else its rows write the partial states slot, slot + 1, …
  int32_t unused;
};
static_assert(sizeof(AttnItem) == 48);

// base-2 score of a key = gamma · scale · log2(e) · (q·k) + beta · log2(e).
struct Edge {
  float gamma = 1.0f;  // ≥ 0; the planner raises it to kLeastGamma, so that a gain of 0 cannot unmask anything
  float beta = 0.0f;   // natural-log units; ≤ kBlocked / 2 removes the keys
  float post = 1.0f;   // ≥ 0: multiplies the probability after softmax, without renormalising
  float unused = 0.0f;
};
static_assert(sizeof(Edge) == 16);
inline constexpr float kLeastGamma = 1e-6f;

// What one variant does at one layer. All pointers are device memory; null means "nothing of this".
struct HookProgram {
  const uint8_t* head_class;  // (H); null: class 0
  const Edge* edges;          // [head class][row class][segments]; null: no edits
  const float* head_scale;    // (H): out ← head_scale · out + head_add
  const float* head_add;      // (H, D)
  int32_t row_classes;
  int32_t segments;           // ≤ kMaxSegments
};

// A part of a row's keys, finished by attn_combine or looked through by topk_refine.
struct AttnPart {
  int32_t slot;       // partial state of the row over these runs
  int32_t run_begin;  // its runs
  int32_t run_count;
  int32_t run_order;  // place of the first of them in the row's whole key list
};

// One (token, head) row whose parts are merged.
struct CombineRow {
  int32_t token;
  int32_t head;
  int32_t part_begin;
  int32_t part_count;  // 0: an empty row (O = 0), e.g. every run blocked
};

// Arguments of attn_mma, attn_decode, attn_wgmma, attn_combine, attn_probe and topk_refine; each reads what it needs.
struct AttnParams {
  int32_t heads, kv_heads, head_dim, tokens;
  float scale;  // usually D^-1/2
  int32_t segments;  // columns of mass and part_segment, ≤ kMaxSegments
  int32_t item_count, row_count;
  const bf16* q;     // (tokens, H, D), rows q_stride elements apart (a multiple of 8)
  const bf16* k;     // arena
  const bf16* v;
  bf16* out;         // (tokens, H, D), rows out_stride elements apart
  int64_t q_stride, out_stride;
  int64_t pages;     // pages in the arena
  const int32_t* low;   // (tokens); null: no lower limit
  const int32_t* high;  // (tokens); null: no upper limit
  const AttnItem* items;
  const PageRun* runs;
  // Interventions.
  const HookProgram* programs;      // null: none
  const uint16_t* token_program;    // (tokens); null: program 0
  const uint8_t* token_class;       // (tokens) row class inside the program; null: class 0
  // Read-outs: rows of the buffers are capture[token]; < 0: not captured; null: the token itself.
  const int32_t* capture;
  float* lse;        // (capture rows, H) natural log
  float* entropy;    // (capture rows, H) nats
  float* mass;       // (capture rows, H, segments)
  float* run_max;    // (capture rows, H, run_max_stride) largest base-2 score of each run, kEmptyMax if none is visible
  int64_t run_max_stride;
  // Partial states: slot → unnormalised O (D) measured from m; (m, l, t); per segment (m, l).
  float* part_o;        // (slots, D)
  float* part_state;    // (slots, 4): m, l, t, unused; t is 0 unless entropy is wanted (or mass, run_max, part_segment)
  float* part_segment;  // (slots, segments, 2): m, l; null: no masses
  const CombineRow* rows;  // attn_combine, topk_refine: row_count of them
  const AttnPart* parts;
  // topk_refine: the top_k keys of largest weight per captured row, descending, ties to the earlier key of the list.
  int32_t top_k;        // ≤ kMaxTop
  int32_t has_edges;    // some program has edges; without it they are not looked at
  int32_t* top_index;   // (capture rows, H, top_k) logical indices, −1 where there are fewer visible keys
  float* top_weight;    // (capture rows, H, top_k) probabilities, 0 there
};
inline constexpr int kMaxTop = 32;

// attn_probe: probabilities by column, from final lse. One item: a run of keys of one KV head for one query head, over
// the query rows [token0, token0 + tokens).
struct ProbeItem {
  int32_t run;        // into runs
  int32_t head;
  int32_t token0, tokens;
  int64_t column0;    // where the run's first key goes: key_mass[head][column0], pattern[capture row][head][column0]
};

struct ProbeParams {
  AttnParams attn;  // q, k, runs, limits, interventions, capture, lse (read)
  const ProbeItem* items;
  int32_t item_count, unused;
  float* key_mass;     // (H, key_span) Σ over the item's captured rows; null: not wanted. Written, not accumulated.
  float* pattern;      // (capture rows, H, key_span) the probabilities themselves; null: not wanted
  int64_t key_span;
};

// kv_append: one GEMM output row (q | k | v) of each token, bias added, q and k rotated (rotate-half), to q and pages.
struct KvAppendParams {
  int32_t heads, kv_heads, head_dim, tokens;
  const bf16* qkv;      // (tokens, (H + 2G) · D), rows qkv_stride elements apart
  const float* bias;    // ((H + 2G) · D) or null
  const float* cosine;  // (tokens, D/2), ops/rope.h; null: no rotation
  const float* sine;
  bf16* q;              // (tokens, H, D), rows q_stride apart
  bf16* k;              // arena
  bf16* v;
  int64_t qkv_stride, q_stride;
  const int32_t* slot;  // (tokens) page · kPageKeys + slot in the arena; < 0: this token's K and V are not kept
};

}  // namespace galvani::gpu
