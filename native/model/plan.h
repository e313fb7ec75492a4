// The sweep as a tree. A trial equals its neighbours until the first layer where its weights or its interventions
// differ: at every layer the trials are partitioned into nodes that compute the same thing, and a node that forks from
// another shares the rows before its first changed one. Going backwards from the wanted outputs, only live rows are
// computed: a row is live at a layer if its own K/V of that or a later layer is read by a live row, or its output is
// wanted.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model/request.h"

namespace galvani {

struct NodeEdit {
  const Edit* edit = nullptr;
  int32_t content = 0;  // equal contents have equal numbers
  int32_t source = -1;  // node of the source run at this layer
};

// Trials that are one computation at one layer.
struct Node {
  int32_t layer = 0;
  int32_t prompt = 0;
  int32_t root = 0;     // which input embedding
  int32_t parent = -1;  // node of the layer below; −1: the root itself
  int32_t base = -1;    // node of this layer that owns the rows before own_from
  int32_t own_from = 0;
  const DecoderLayer* weights = nullptr;
  std::vector<NodeEdit> edits;  // those that change something here, in the trial's order
  std::vector<int32_t> trials;
  bool keep_keys = false;          // some trial decodes
  std::vector<uint8_t> full;       // (n) rows that pass the whole layer here
  std::vector<uint8_t> keys;       // (n) rows whose K, V are computed here
  std::vector<int32_t> kv_source;  // (n) or empty: edit (index) whose source supplies both K and V of the row; −1: own
  int64_t live_rows = 0;
};

struct Plan {
  std::vector<std::vector<Node>> layers;      // (L) nodes in an order where base and source come first
  std::vector<std::vector<int32_t>> node_of;  // (L)(trials)
  std::vector<int32_t> root_of;               // (trials)
  int32_t roots = 0;
  std::vector<int32_t> order;              // trials, sources first
  std::vector<std::vector<int32_t>> cuts;  // (prompts) sorted key indices where a run must end
  int64_t layer_rows = 0, naive_layer_rows = 0;
};

// Trials with sources first; among the free ones those with fewer interventions first, so that the plain run leads.
// Throws BAD_ARGUMENT when the sources form a circle.
std::vector<int32_t> source_first_order(const Request& request);

// root_of[trial]: trials with equal numbers start from the same embeddings. All models have the same layer count.
Plan make_plan(const Request& request, std::vector<int32_t> root_of);

}  // namespace galvani
