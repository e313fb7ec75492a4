#include "model/plan.h"

#include <algorithm>
#include <set>
#include <tuple>

#include "core/status.h"

namespace galvani {
namespace {

bool edits_prefill_decoder(const Edit& edit) { return edit.prefill && edit.tower == Tower::kDecoder; }

}  // namespace

std::vector<int32_t> source_first_order(const Request& request) {
  const int32_t count = static_cast<int32_t>(request.trials.size());
  std::vector<std::vector<int32_t>> dependents(count);
  std::vector<int32_t> waiting(count, 0);
  for (int32_t t = 0; t < count; ++t)
    for (const Edit& edit : request.trials[t].edits)
      if (edit.source >= 0) {
        dependents[edit.source].push_back(t);
        ++waiting[t];
      }
  std::set<std::pair<int64_t, int32_t>> ready;
  auto weight = [&](int32_t t) {
    int64_t changing = 0;
    for (const Edit& edit : request.trials[t].edits) changing += !edit.captures();
    return changing;
  };
  for (int32_t t = 0; t < count; ++t)
    if (waiting[t] == 0) ready.insert({weight(t), t});
  std::vector<int32_t> order;
  while (!ready.empty()) {
    const int32_t t = ready.begin()->second;
    ready.erase(ready.begin());
    order.push_back(t);
    for (int32_t next : dependents[t])
      if (--waiting[next] == 0) ready.insert({weight(next), next});
  }
  if (static_cast<int32_t>(order.size()) != count)
    throw Error(Code::kBadArgument, "trials: the source runs of interventions form a circle");
  return order;
}

namespace {

// First row at which two edit lists of sibling nodes act differently.
int32_t first_difference(const std::vector<NodeEdit>& a, const std::vector<NodeEdit>& b) {
  // Edits are applied in order, so compare the lists as sequences; from the first mismatch on every edit counts.
  size_t same = 0;
  while (same < a.size() && same < b.size() && a[same].content == b[same].content && a[same].source == b[same].source)
    ++same;
  int32_t first = kOpenEnd;
  for (size_t i = same; i < a.size(); ++i) first = std::min(first, first_row(a[i].edit->rows));
  for (size_t i = same; i < b.size(); ++i) first = std::min(first, first_row(b[i].edit->rows));
  return first;
}

struct Builder {
  const Request& request;
  Plan plan;
  std::map<std::string, int32_t> contents;

  explicit Builder(const Request& r) : request(r) {}

  int32_t prompt_rows(const Node& node) const { return request.prompts[node.prompt].rows(); }

  std::vector<NodeEdit> edits_at(int32_t trial, int32_t layer) {
    std::vector<NodeEdit> edits;
    const TrialInput& input = request.trials[trial];
    for (const Edit& edit : input.edits) {
      if (edit.captures() || edit.site == Site::kLogits || !edits_prefill_decoder(edit) || !edit.at_layer(layer))
        continue;
      if (first_row(edit.rows) >= request.prompts[input.prompt].rows()) continue;  // generated rows only
      const auto [it, fresh] = contents.try_emplace(edit.content(), static_cast<int32_t>(contents.size()));
      edits.push_back({&edit, it->second, edit.source < 0 ? -1 : plan.node_of[layer][edit.source]});
    }
    return edits;
  }

  // The row from which on a node must own its rows, at most `from`. A mean over own rows ties its span together: rows
  // of a base already hold the base's mean, so the span must lie wholly on one side.
  static int32_t untie(const std::vector<NodeEdit>& edits, int32_t from, int32_t rows) {
    for (bool moved = true; moved;) {
      moved = false;
      for (const NodeEdit& bound : edits) {
        if (!bound.edit->own_mean()) continue;
        const std::vector<int32_t> span = expand(bound.edit->rows, rows);
        if (span.empty() || span.front() >= from || span.back() < from) continue;
        from = span.front();
        moved = true;
      }
    }
    return from;
  }

  // Chooses the node whose rows a new node may share, and from which row on it differs.
  void choose_base(Node& node, const std::vector<Node>& level, const std::vector<Node>* below) {
    const int32_t rows = prompt_rows(node);
    int32_t best = -1, best_from = 0;
    for (int32_t i = 0; i < static_cast<int32_t>(level.size()); ++i) {
      const Node& other = level[i];
      if (other.prompt != node.prompt || other.root != node.root || other.weights != node.weights) continue;
      int32_t from = first_difference(node.edits, other.edits);
      if (other.parent != node.parent) {
        if (!below) continue;
        const Node& parent = (*below)[node.parent];
        if (parent.base < 0 || parent.base != other.parent) continue;
        from = std::min(from, parent.own_from);
      }
      from = untie(node.edits, std::min(from, rows), rows);
      if (from > best_from) {
        best = i;
        best_from = from;
      }
    }
    node.base = best;
    node.own_from = best_from;
  }

  void build_nodes(int32_t layers) {
    plan.layers.resize(layers);
    plan.node_of.assign(layers, std::vector<int32_t>(request.trials.size(), -1));
    for (int32_t layer = 0; layer < layers; ++layer) {
      std::vector<Node>& level = plan.layers[layer];
      const std::vector<Node>* below = layer > 0 ? &plan.layers[layer - 1] : nullptr;
      using Key = std::tuple<int32_t, const DecoderLayer*, std::vector<std::pair<int32_t, int32_t>>>;
      std::map<Key, int32_t> found;
      for (int32_t trial : plan.order) {
        const TrialInput& input = request.trials[trial];
        std::vector<NodeEdit> edits = edits_at(trial, layer);
        Key key{below ? plan.node_of[layer - 1][trial] : plan.root_of[trial], input.model->layers[layer].get(), {}};
        for (const NodeEdit& edit : edits) std::get<2>(key).emplace_back(edit.content, edit.source);
        const auto [it, fresh] = found.try_emplace(key, static_cast<int32_t>(level.size()));
        if (fresh) {
          Node node;
          node.layer = layer;
          node.prompt = input.prompt;
          node.root = plan.root_of[trial];
          node.parent = below ? plan.node_of[layer - 1][trial] : -1;
          node.weights = input.model->layers[layer].get();
          node.edits = std::move(edits);
          choose_base(node, level, below);
          const size_t n = static_cast<size_t>(prompt_rows(node));
          node.full.assign(n, 0);
          node.keys.assign(n, 0);
          find_replaced_keys(node);
          level.push_back(std::move(node));
        }
        Node& node = level[it->second];
        node.trials.push_back(trial);
        node.keep_keys |= input.max_tokens > 0;
        plan.node_of[layer][trial] = it->second;
        // A row whose attention is read out must be computed by the node that reads it.
        for (const Edit& edit : input.edits)
          if (edit.captures() && edit.site == Site::kAttnLogits && edits_prefill_decoder(edit) && edit.at_layer(layer))
            node.own_from = untie(node.edits, std::min(node.own_from, first_row(edit.rows)), prompt_rows(node));
      }
    }
  }

  // Rows whose K and V both come whole from a source run: their own K, V are never read. Only where k and v carry
  // nothing but matching patches; any other edit of k or v keeps the row's own values in play.
  void find_replaced_keys(Node& node) {
    const NodeEdit *k = nullptr, *v = nullptr;
    int32_t k_index = -1;
    for (size_t i = 0; i < node.edits.size(); ++i) {
      const Edit& edit = *node.edits[i].edit;
      if (edit.site != Site::kK && edit.site != Site::kV) continue;
      const NodeEdit*& slot = edit.site == Site::kK ? k : v;
      if (slot || edit.op != EditOp::kPatch || !edit.heads.empty()) return;
      slot = &node.edits[i];
      if (edit.site == Site::kK) k_index = static_cast<int32_t>(i);
    }
    if (!k || !v || k->source != v->source) return;
    const int32_t n = prompt_rows(node);
    const auto rows = expand(k->edit->rows, n);
    if (rows != expand(v->edit->rows, n)) return;
    for (int32_t row : rows)
      if (k->edit->source_row_of(row) != v->edit->source_row_of(row)) return;
    node.kv_source.assign(n, -1);
    for (int32_t row : rows) node.kv_source[row] = k_index;
  }

  void need_full(int32_t layer, int32_t index, int32_t row) {
    Node* node = &plan.layers[layer][index];
    while (row < node->own_from) node = &plan.layers[layer][node->base];
    node->full[row] = 1;
  }

  void need_keys(int32_t layer, int32_t index, int32_t row) {
    for (;;) {  // a loop: chains of sources may be as long as the request
      Node* node = &plan.layers[layer][index];
      while (row < node->own_from) node = &plan.layers[layer][node->base];
      if (node->kv_source.empty() || node->kv_source[row] < 0) {
        node->keys[row] = 1;
        return;
      }
      const NodeEdit& edit = node->edits[node->kv_source[row]];
      row = edit.edit->source_row_of(row);
      index = edit.source;
    }
  }

  void need_site(int32_t layer, int32_t index, int32_t row, Site site) {
    if (site == Site::kResidPre || site == Site::kK || site == Site::kV)
      need_keys_or_input(layer, index, row, site);
    else
      need_full(layer, index, row);
  }
  void need_keys_or_input(int32_t layer, int32_t index, int32_t row, Site site) {
    if (site != Site::kResidPre) return need_keys(layer, index, row);
    Node* node = &plan.layers[layer][index];
    while (row < node->own_from) node = &plan.layers[layer][node->base];
    node->keys[row] = 1;  // the stream must be present; its K, V come along
  }

  void need_captures(int32_t layer) {
    for (int32_t trial = 0; trial < static_cast<int32_t>(request.trials.size()); ++trial) {
      const TrialInput& input = request.trials[trial];
      for (const Edit& edit : input.edits) {
        if (!edit.captures() || edit.site == Site::kLogits || !edits_prefill_decoder(edit) || !edit.at_layer(layer))
          continue;
        for (int32_t row : expand(edit.rows, request.prompts[input.prompt].rows()))
          need_site(layer, plan.node_of[layer][trial], row, edit.site);
      }
    }
  }

  void need_outputs(int32_t last) {
    for (int32_t trial = 0; trial < static_cast<int32_t>(request.trials.size()); ++trial) {
      const TrialInput& input = request.trials[trial];
      const int32_t n = request.prompts[input.prompt].rows();
      bool wanted = input.max_tokens > 0 || !input.score_tokens.empty() || input.kl_to >= 0;
      for (const Edit& edit : input.edits)
        if (edit.site == Site::kLogits && edit.prefill) {
          if (edit.captures() || edit.own_mean())
            for (int32_t row : expand(edit.rows, n)) need_full(last, plan.node_of[last][trial], row);
          if (edit.source >= 0)
            for (int32_t row : expand(edit.source_rows, kOpenEnd))
              need_full(last, plan.node_of[last][edit.source], row);
        }
      if (wanted) need_full(last, plan.node_of[last][trial], n - 1);
      if (input.kl_to >= 0) {
        const int32_t other = input.kl_to;
        need_full(last, plan.node_of[last][other], request.prompts[request.trials[other].prompt].rows() - 1);
      }
    }
  }

  void find_live_rows(int32_t layers) {
    need_outputs(layers - 1);
    for (int32_t layer = layers - 1; layer >= 0; --layer) {
      need_captures(layer);
      std::vector<Node>& level = plan.layers[layer];
      for (int32_t i = static_cast<int32_t>(level.size()) - 1; i >= 0; --i) {  // readers before what they read
        Node& node = level[i];
        const int32_t n = prompt_rows(node);
        for (const NodeEdit& bound : node.edits) {
          const Edit& edit = *bound.edit;
          const bool key_site = edit.site == Site::kK || edit.site == Site::kV;
          if (key_site && !node.kv_source.empty()) continue;  // followed row by row in need_keys
          if (edit.source >= 0) {
            if (edit.op == EditOp::kMean) {
              for (int32_t row : expand(edit.source_rows, kOpenEnd)) need_site(layer, bound.source, row, edit.site);
            } else {
              for (int32_t row : expand(edit.rows, n))
                need_site(layer, bound.source, edit.source_row_of(row), edit.site);
            }
          } else if (edit.own_mean()) {
            for (int32_t row : expand(edit.rows, n)) need_site(layer, i, row, edit.site);
          }
        }
        int32_t last_full = -1;
        for (int32_t row = node.own_from; row < n; ++row)
          if (node.full[row]) last_full = row;
        const int32_t read = node.keep_keys ? n - 1 : last_full;
        for (int32_t row = 0; row <= read; ++row) need_keys(layer, i, row);
        for (int32_t row = node.own_from; row < n; ++row) {
          if (!node.full[row] && !node.keys[row]) continue;
          ++node.live_rows;
          if (layer > 0) need_full(layer - 1, node.parent, row);
        }
        plan.layer_rows += node.live_rows;
      }
    }
    for (const TrialInput& input : request.trials)
      plan.naive_layer_rows += int64_t{request.prompts[input.prompt].rows()} * layers;
  }

  void find_cuts() {
    std::vector<std::set<int32_t>> cuts(request.prompts.size());
    for (const TrialInput& input : request.trials)
      for (const Edit& edit : input.edits)
        for (const RowRanges& span : edit.keys)
          for (const RowRange& range : span) {
            cuts[input.prompt].insert(range.begin);
            if (range.end != kOpenEnd) cuts[input.prompt].insert(range.end);
          }
    for (auto& set : cuts) plan.cuts.emplace_back(set.begin(), set.end());
  }
};

}  // namespace

Plan make_plan(const Request& request, std::vector<int32_t> root_of) {
  Builder builder(request);
  const int32_t layers = request.trials.empty() ? 0 : static_cast<int32_t>(request.trials[0].model->layers.size());
  builder.plan.root_of = std::move(root_of);
  for (int32_t root : builder.plan.root_of) builder.plan.roots = std::max(builder.plan.roots, root + 1);
  builder.plan.order = source_first_order(request);
  builder.find_cuts();
  builder.build_nodes(layers);
  builder.find_live_rows(layers);
  return std::move(builder.plan);
}

}  // namespace galvani
