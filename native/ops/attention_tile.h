// What attention.cc hands to one instruction set: a tile of query rows of one KV head against a list of key spans.
//
// A lane is one (query row, query head of the group) pair; a tile has L = vectors · kWidth lanes that share every load
// of K and V. Keys go by one after the other, so each lane's arithmetic is a plain loop over its keys: it cannot
// depend on the other lanes, on the cuts between spans, or on threads, and a blocked key (weight exactly 0) leaves
// every sum as it was.
#pragma once
#include <cstdint>

namespace galvani {

struct AttentionSpan {
  const float* k;  // (count, D), rows `stride` floats apart
  const float* v;
  int64_t stride;
  int32_t count;
  int32_t index;       // logical index of the first key
  bool cut;            // some lane sees only a part of this span
  const float* gain;   // (L) base-2 score = gain · (q·k) + shift; a blocked lane has gain 0, shift kBlocked
  const float* shift;  // (L)
  float* mass;         // (L) += the lane's weight on these keys, or null
  const float* post;   // (L) multiplies the lane's weights on their way to o, or null: 1
};

struct AttentionTile {
  int32_t vectors;       // 1 or 2
  int32_t head_dim;      // D
  const float* q;        // (D, L)
  const int32_t* limit;  // (L) largest visible logical index
  const int32_t* low;    // (L) smallest, or null
  const AttentionSpan* spans;
  int32_t span_count;
  float* weights;  // (Σ count, L) scratch; on return 2^(score − m), 0 where invisible
  float* o;        // (D, L) out: Σ post · weight · v / l, 0 if nothing is visible
  float* m;        // (L) out: exact maximum score, kEmptyMax if nothing is visible
  float* l;        // (L) out: Σ weight
  float* t;        // (L) out: Σ weight · (score − m)
};

inline constexpr int kMaxWidth = 16;  // lanes of the widest vector

// Lanes of one vector, and the tile itself, per instruction set.
int attention_width_portable();
int attention_width_avx2();
int attention_width_avx512();
void attention_tile_portable(const AttentionTile& tile);
void attention_tile_avx2(const AttentionTile& tile);
void attention_tile_avx512(const AttentionTile& tile);

// The pair of the instruction set in use.
struct AttentionKernel {
  int width;
  void (*run)(const AttentionTile&);
};
AttentionKernel attention_kernel();

}  // namespace galvani
