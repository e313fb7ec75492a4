#include "model/engine.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <tuple>

#include "core/status.h"
#include "model/decoder.h"
#include "model/vision.h"
#include "ops/embed.h"
#include "ops/norm.h"
#include "ops/rope.h"

namespace galvani {

void RunControl::check() const {
  if (cancelled && cancelled->load(std::memory_order_relaxed)) throw Error(Code::kAborted, "cancelled by the caller");
}

namespace {

double now_ms() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class Runner {
 public:
  Runner(const Request& request, ThreadPool& pool, const RunControl& control)
      : request_(request),
        pool_(pool),
        control_(control),
        config_(request.trials[0].model->config),
        decoder_(config_.decoder),
        arena_(decoder_.kv_heads, decoder_.head_dim),
        pass_(decoder_, arena_, pool) {}

  Response run() {
    response_.trials.resize(request_.trials.size());
    sinks_.resize(request_.trials.size());
    for (size_t t = 0; t < request_.trials.size(); ++t)
      for (const Edit& edit : request_.trials[t].edits)
        if (edit.captures()) sinks_[t].push_back(std::make_unique<CaptureSink>(&edit));

    const double start = now_ms();
    see();
    const double seen = now_ms();
    embed();
    prefill();
    read_outputs();
    const double prefilled = now_ms();
    decode();
    response_.stats.vision_ms = seen - start;
    response_.stats.prefill_ms = prefilled - seen;
    response_.stats.decode_ms = now_ms() - prefilled;
    response_.stats.kv_bytes = arena_.peak_bytes();

    for (size_t t = 0; t < sinks_.size(); ++t) {
      response_.trials[t].captures.resize(request_.trials[t].captures);
      for (const auto& sink : sinks_[t]) response_.trials[t].captures[sink->edit().capture] = sink->finish();
    }
    return std::move(response_);
  }

 private:
  const TrialInput& trial(int32_t t) const { return request_.trials[t]; }
  const PromptInput& prompt_of(int32_t t) const { return request_.prompts[trial(t).prompt]; }
  int32_t trials() const { return static_cast<int32_t>(request_.trials.size()); }

  // ---- vision -----------------------------------------------------------------------------------------------------

  // One job per distinct (image, tower, projector, interventions); trials with vision read-outs get their own.
  void see() {
    job_of_.resize(trials());
    if (!config_.vision) return;
    std::map<std::string, int32_t> known;
    for (int32_t t : source_first_order(request_)) {
      const TrialInput& input = trial(t);
      int32_t first_patch = 0;
      for (size_t place = 0; place < prompt_of(t).images.size(); ++place) {
        const int32_t image = prompt_of(t).images[place].image;
        const int32_t patches = static_cast<int32_t>(request_.images[image].patches());
        VisionJob job;
        job.image = image;
        job.tower = input.model->vision.get();
        job.projector = input.model->projector.get();
        std::string key;
        auto add = [&](const auto& value) { key.append(reinterpret_cast<const char*>(&value), sizeof value); };
        add(image);
        add(job.tower);
        add(job.projector);
        bool captures = false;
        for (const Edit& edit : input.edits) {
          if (edit.tower == Tower::kDecoder || !edit.prefill) continue;  // images are prompt rows
          if (edit.captures()) {
            captures = true;
            continue;
          }
          VisionJob::Bound bound{edit, -1};
          const int32_t unit =
              edit.tower == Tower::kProjector ? config_.vision->merge_size * config_.vision->merge_size : 1;
          bound.edit.rows = clip(edit.rows, first_patch / unit, patches / unit);
          if (bound.edit.rows.empty()) continue;
          if (edit.source >= 0) bind_source(place, edit, unit, bound);
          key += bound.edit.content();
          add(edit.layers.size());
          for (int32_t layer : edit.layers) add(layer);
          add(bound.source);
          job.edits.push_back(std::move(bound));
        }
        if (captures) {
          add(t);
          add(place);  // an image may come twice in a prompt
        }
        const auto [it, fresh] = known.try_emplace(key, static_cast<int32_t>(jobs_.size()));
        if (fresh) {
          if (captures)
            for (auto& sink : sinks_[t])
              if (sink->edit().tower != Tower::kDecoder && sink->edit().prefill)
                job.captures.emplace_back(sink.get(), first_patch);
          jobs_.push_back(std::move(job));
          response_.stats.vision_layer_rows += int64_t{patches} * config_.vision->layers;
        }
        job_of_[t].push_back(it->second);
        response_.stats.naive_vision_layer_rows += int64_t{patches} * config_.vision->layers;
        first_patch += patches;
      }
    }
    control_.report(Stage::kVision, 0, static_cast<int64_t>(jobs_.size()));
    // A slab of images at a time bounds memory; jobs with sources must be together, so then all at once.
    const bool linked = std::any_of(jobs_.begin(), jobs_.end(), [](const VisionJob& job) {
      return std::any_of(job.edits.begin(), job.edits.end(), [](const VisionJob::Bound& b) { return b.source >= 0; });
    });
    size_t at = 0;
    while (at < jobs_.size()) {
      control_.check();
      size_t end = at;
      int64_t rows = 0;
      while (end < jobs_.size() && (linked || end == at || rows < 8192))
        rows += request_.images[jobs_[end++].image].patches();
      const std::vector<VisionJob> slab(jobs_.begin() + at, jobs_.begin() + end);
      for (auto& tokens : encode_images(*config_.vision, request_.images, slab, pool_))
        image_tokens_.push_back(std::move(tokens));
      at = end;
      control_.report(Stage::kVision, static_cast<int64_t>(at), static_cast<int64_t>(jobs_.size()));
    }
  }

  // The source run's image in the same place; validate() has compared the rows.
  void bind_source(size_t place, const Edit& edit, int32_t unit, VisionJob::Bound& bound) {
    const PromptInput& from = prompt_of(edit.source);
    int32_t source_first = 0;
    for (size_t p = 0; p < place; ++p)
      source_first += static_cast<int32_t>(request_.images[from.images[p].image].patches()) / unit;
    const int32_t source_count = static_cast<int32_t>(request_.images[from.images[place].image].patches()) / unit;
    bound.source = job_of_[edit.source][place];
    bound.edit.source_rows = clip(edit.source_rows, source_first, source_count);
  }

  // ---- prefill ----------------------------------------------------------------------------------------------------

  // Input embeddings of every root: token rows, image rows in place.
  void embed() {
    using Key = std::tuple<int32_t, const void*, std::vector<int32_t>>;
    std::map<Key, int32_t> known;
    std::vector<int32_t> root_of(trials());
    const int64_t C = decoder_.width;
    for (int32_t t = 0; t < trials(); ++t) {
      const Weight& table = trial(t).model->embed;
      const auto [it, fresh] =
          known.try_emplace(Key{trial(t).prompt, table.data, job_of_[t]}, static_cast<int32_t>(known.size()));
      root_of[t] = it->second;
      if (!fresh) continue;
      const PromptInput& prompt = prompt_of(t);
      std::vector<float> rows(prompt.rows() * C);
      embed_rows(rows.data(), C, prompt.ids.data(), prompt.rows(), table);
      for (size_t p = 0; p < prompt.images.size(); ++p)
        std::memcpy(rows.data() + prompt.images[p].start * C, image_tokens_[job_of_[t][p]].data(),
                    prompt.images[p].count * C * sizeof(float));
      roots_.push_back(std::move(rows));
    }
    image_tokens_.clear();

    const int64_t half = decoder_.head_dim / 2;
    for (const PromptInput& prompt : request_.prompts) {
      cos_of_.emplace_back(prompt.rows() * half);
      sin_of_.emplace_back(prompt.rows() * half);
      mrope_table(cos_of_.back().data(), sin_of_.back().data(), prompt.positions.data(), prompt.rows(),
                  decoder_.head_dim, decoder_.mrope_section.data(), decoder_.rope_theta);
    }
    plan_ = make_plan(request_, std::move(root_of));
    response_.stats.prefill_layer_rows = plan_.layer_rows;
    response_.stats.naive_layer_rows = plan_.naive_layer_rows;
  }

  std::vector<CaptureSink*> captures_at(int32_t t, int32_t layer, bool prefill) {
    std::vector<CaptureSink*> found;
    for (auto& sink : sinks_[t]) {
      const Edit& edit = sink->edit();
      if (edit.tower == Tower::kDecoder && edit.site != Site::kLogits && (prefill ? edit.prefill : edit.decode) &&
          edit.at_layer(layer))
        found.push_back(sink.get());
    }
    return found;
  }

  Block prefill_block(const Node& node, int32_t index) {
    Block block;
    block.weights = node.weights;
    block.base = node.base;
    block.own_from = node.own_from;
    block.prompt_rows = request_.prompts[node.prompt].rows();
    for (int32_t row = node.own_from; row < block.prompt_rows; ++row)
      if (node.full[row]) block.rows.push_back(row);
    block.full = static_cast<int32_t>(block.rows.size());
    for (int32_t row = node.own_from; row < block.prompt_rows; ++row)
      if (!node.full[row] && node.keys[row]) block.rows.push_back(row);
    block.index.assign(block.prompt_rows, -1);
    for (const NodeEdit& edit : node.edits) block.edits.push_back({edit.edit, edit.source});
    for (int32_t t : node.trials)
      for (CaptureSink* sink : captures_at(t, node.layer, true)) block.captures.push_back(sink);
    block.kv_source = &node.kv_source;
    block.cuts = &plan_.cuts[node.prompt];
    block.keys = &keys_[node.layer][index];
    return block;
  }

  void prefill() {
    const int64_t C = decoder_.width, half = decoder_.head_dim / 2;
    keys_.resize(decoder_.layers);
    std::vector<Block> below;
    std::vector<float> x, next, cos, sin;
    for (int32_t layer = 0; layer < decoder_.layers; ++layer) {
      control_.check();
      control_.report(Stage::kPrefill, layer, decoder_.layers);
      const std::vector<Node>& level = plan_.layers[layer];
      keys_[layer].resize(level.size());
      std::vector<Block> blocks;
      for (size_t i = 0; i < level.size(); ++i) blocks.push_back(prefill_block(level[i], static_cast<int32_t>(i)));
      const int64_t rows = DecoderPass::arrange(blocks);
      next.resize(rows * C);
      cos.resize(rows * half);
      sin.resize(rows * half);
      for (size_t i = 0; i < level.size(); ++i) {
        const Node& node = level[i];
        for (int32_t row : blocks[i].rows) {
          const int64_t to = blocks[i].index[row];
          const float* from;
          if (layer == 0) {
            from = roots_[node.root].data() + int64_t{row} * C;
          } else {
            const int64_t at = DecoderPass::locate(below, node.parent, row);
            GALVANI_CHECK(at >= 0);
            from = x.data() + at * C;
          }
          std::memcpy(next.data() + to * C, from, C * sizeof(float));
          std::memcpy(cos.data() + to * half, cos_of_[node.prompt].data() + row * half, half * sizeof(float));
          std::memcpy(sin.data() + to * half, sin_of_[node.prompt].data() + row * half, half * sizeof(float));
        }
      }
      std::swap(x, next);
      pass_.forward({layer, x.data(), rows, cos.data(), sin.data(), &blocks});
      for (size_t i = 0; i < level.size(); ++i)
        if (!level[i].keep_keys) keys_[layer][i].clear();
      below = std::move(blocks);
    }
    control_.report(Stage::kPrefill, decoder_.layers, decoder_.layers);
    roots_.clear();
    last_blocks_ = std::move(below);
    last_x_ = std::move(x);
  }

  // ---- outputs ----------------------------------------------------------------------------------------------------

  // Logits of rows of x under each row's own head: rows sharing a head are one matmul.
  std::vector<float> logits_of(const std::vector<float>& x, const std::vector<int64_t>& rows,
                               const std::vector<const Head*>& heads) {
    const int64_t C = decoder_.width, V = decoder_.vocab, n = static_cast<int64_t>(rows.size());
    std::vector<float> logits(n * V);
    std::vector<const Head*> distinct;
    for (const Head* head : heads)
      if (std::find(distinct.begin(), distinct.end(), head) == distinct.end()) distinct.push_back(head);
    std::vector<float> gathered, out;
    for (const Head* head : distinct) {
      std::vector<int64_t> members;
      for (int64_t i = 0; i < n; ++i)
        if (heads[i] == head) members.push_back(i);
      const int64_t m = static_cast<int64_t>(members.size());
      gathered.resize(m * C);
      for (int64_t i = 0; i < m; ++i)
        std::memcpy(gathered.data() + i * C, x.data() + rows[members[i]] * C, C * sizeof(float));
      rms_norm(gathered.data(), C, gathered.data(), C, head->norm.data(), m, C, decoder_.rms_eps, pool_);
      const bool all = m == n;
      if (!all) out.resize(m * V);
      matmul({all ? logits.data() : out.data(), V, gathered.data(), C, head->w, nullptr, m}, pool_);
      if (!all)
        for (int64_t i = 0; i < m; ++i)
          std::memcpy(logits.data() + members[i] * V, out.data() + i * V, V * sizeof(float));
    }
    return logits;
  }

  // Edits logits of the listed rows of one trial, (count, V).
  void edit_logits(int32_t t, const int32_t* rows, int32_t count, float* logits, bool prefill) {
    const int64_t V = decoder_.vocab;
    const RowBlock block{0, rows, count};
    for (const Edit& edit : trial(t).edits) {
      if (edit.site != Site::kLogits || edit.captures() || !(prefill ? edit.prefill : edit.decode)) continue;
      const SourceRow source = [&](int32_t from) -> const float* { return prompt_logits(edit.source, from); };
      const SourceRow own = [&](int32_t from) -> const float* { return prompt_logits(t, from); };
      apply_edit(edit, logits, V, V, 0, {&block, 1}, source, own, prompt_of(t).rows());
    }
  }

  const float* prompt_logits(int32_t t, int32_t row) {
    const auto it = logit_rows_.find({t, row});
    GALVANI_CHECK(it != logit_rows_.end());
    return logits_.data() + it->second * int64_t{decoder_.vocab};
  }

  // Logits of every wanted prompt row, then scores, KL and captures.
  void read_outputs() {
    const int32_t last = decoder_.layers - 1;
    std::vector<int64_t> rows;
    std::vector<const Head*> heads;
    std::map<std::pair<int64_t, const Head*>, int64_t> shared;
    std::vector<std::pair<int32_t, int32_t>> wanted;  // trial, prompt row
    for (int32_t t : plan_.order) {
      const int32_t n = prompt_of(t).rows();
      std::map<int32_t, bool> own;
      if (trial(t).max_tokens > 0 || !trial(t).score_tokens.empty() || trial(t).kl_to >= 0) own[n - 1] = true;
      for (const Edit& edit : trial(t).edits)
        if (edit.site == Site::kLogits && edit.prefill) {
          if (edit.captures())
            for (int32_t row : expand(edit.rows, n)) own[row] = true;
          if (edit.source >= 0)
            for (int32_t row : expand(edit.source_rows, kOpenEnd)) wanted.emplace_back(edit.source, row);
          else if (edit.own_mean())
            for (int32_t row : expand(edit.rows, n)) own[row] = true;
        }
      for (auto [row, yes] : own) wanted.emplace_back(t, row);
    }
    for (int32_t t = 0; t < trials(); ++t)
      if (trial(t).kl_to >= 0) wanted.emplace_back(trial(t).kl_to, prompt_of(trial(t).kl_to).rows() - 1);
    // Sources before the trials that read them, each (trial, row) once.
    std::vector<int32_t> rank(trials());
    for (size_t i = 0; i < plan_.order.size(); ++i) rank[plan_.order[i]] = static_cast<int32_t>(i);
    std::sort(wanted.begin(), wanted.end(),
              [&](auto a, auto b) { return std::pair(rank[a.first], a.second) < std::pair(rank[b.first], b.second); });
    wanted.erase(std::unique(wanted.begin(), wanted.end()), wanted.end());
    for (auto [t, row] : wanted) {
      const int64_t at = DecoderPass::locate(last_blocks_, plan_.node_of[last][t], row);
      GALVANI_CHECK(at >= 0);
      logit_rows_[{t, row}] = static_cast<int64_t>(rows.size());
      rows.push_back(at);
      heads.push_back(trial(t).model->head.get());
    }
    logits_ = logits_of(last_x_, rows, heads);
    const int64_t V = decoder_.vocab;
    for (size_t at = 0, end = 0; at < wanted.size(); at = end) {
      std::vector<int32_t> of_trial;
      for (; end < wanted.size() && wanted[end].first == wanted[at].first; ++end)
        of_trial.push_back(wanted[end].second);
      edit_logits(wanted[at].first, of_trial.data(), static_cast<int32_t>(of_trial.size()),
                  logits_.data() + static_cast<int64_t>(at) * V, true);
    }
    for (int32_t t = 0; t < trials(); ++t) {
      const int32_t n = prompt_of(t).rows();
      for (auto& sink : sinks_[t])
        if (sink->edit().site == Site::kLogits && sink->edit().prefill)
          for (int32_t row : expand(sink->edit().rows, n)) sink->add_row(0, prompt_logits(t, row), V, 0);
      TrialOutput& output = response_.trials[t];
      if (!trial(t).score_tokens.empty()) {
        const float* logits = prompt_logits(t, n - 1);
        const double lse = log_sum_exp(logits, V);
        for (int32_t id : trial(t).score_tokens) output.score_logprobs.push_back(static_cast<float>(logits[id] - lse));
      }
      if (trial(t).kl_to >= 0)
        output.kl = kl_divergence(prompt_logits(t, n - 1),
                                  prompt_logits(trial(t).kl_to, prompt_of(trial(t).kl_to).rows() - 1), V);
    }
    last_x_.clear();
    last_x_.shrink_to_fit();
  }

  // ---- decode -----------------------------------------------------------------------------------------------------

  struct Decoding {
    int32_t trial = 0;
    int32_t row = 0;  // logical row of the token being run
    std::vector<KeyList> tail;
    std::vector<std::shared_ptr<KvPage>> page;
    std::vector<int32_t> used;
  };

  // Takes the next token of a trial from its logits. True while the trial goes on.
  bool choose(int32_t t, const float* logits) {
    const TrialInput& input = trial(t);
    TrialOutput& output = response_.trials[t];
    const int64_t V = decoder_.vocab;
    const int32_t token = input.sampling.temperature > 0.0f
                              ? sample(logits, V, input.sampling, uniform_at(input.seed, output.tokens.size()))
                              : argmax(logits, V);
    output.tokens.push_back(token);
    output.logprobs.push_back(static_cast<float>(logits[token] - log_sum_exp(logits, V)));
    if (std::find(input.stop_tokens.begin(), input.stop_tokens.end(), token) != input.stop_tokens.end()) return false;
    if (static_cast<int32_t>(output.tokens.size()) >= input.max_tokens) {
      output.truncated = true;
      return false;
    }
    return true;
  }

  void decode() {
    std::vector<Decoding> active;
    int64_t finished = 0, total = 0;
    for (int32_t t = 0; t < trials(); ++t) {
      if (trial(t).max_tokens == 0) continue;
      ++total;
      if (!choose(t, prompt_logits(t, prompt_of(t).rows() - 1))) {
        ++finished;
        continue;
      }
      Decoding d;
      d.trial = t;
      d.row = prompt_of(t).rows();
      d.tail.resize(decoder_.layers);
      d.page.resize(decoder_.layers);
      d.used.assign(decoder_.layers, 0);
      active.push_back(std::move(d));
    }
    logits_.clear();
    logits_.shrink_to_fit();
    // Trials of one model side by side keep the weight groups whole.
    std::stable_sort(active.begin(), active.end(), [&](const Decoding& a, const Decoding& b) {
      return std::less<>()(trial(a.trial).model.get(), trial(b.trial).model.get());
    });

    const int64_t C = decoder_.width, half = decoder_.head_dim / 2, V = decoder_.vocab;
    std::vector<float> x, ordered, cos, sin, ordered_cos, ordered_sin;
    while (!active.empty()) {
      control_.check();
      control_.report(Stage::kDecode, finished, total);
      const int64_t n = static_cast<int64_t>(active.size());
      x.resize(n * C);
      cos.resize(n * half);
      sin.resize(n * half);
      ordered.resize(n * C);
      ordered_cos.resize(n * half);
      ordered_sin.resize(n * half);
      for (int64_t i = 0; i < n; ++i) {
        const Decoding& d = active[i];
        const int32_t token = response_.trials[d.trial].tokens.back();
        embed_rows(x.data() + i * C, C, &token, 1, trial(d.trial).model->embed);
        const int32_t position = prompt_of(d.trial).next_position + d.row - prompt_of(d.trial).rows();
        const int32_t positions[3] = {position, position, position};
        mrope_table(cos.data() + i * half, sin.data() + i * half, positions, 1, decoder_.head_dim,
                    decoder_.mrope_section.data(), decoder_.rope_theta);
      }
      for (int32_t layer = 0; layer < decoder_.layers; ++layer) {
        std::vector<Block> blocks(n);
        for (int64_t i = 0; i < n; ++i) decode_block(active[i], layer, blocks[i]);
        DecoderPass::arrange(blocks);
        for (int64_t i = 0; i < n; ++i) {
          const int64_t to = blocks[i].full_begin;
          std::memcpy(ordered.data() + to * C, x.data() + i * C, C * sizeof(float));
          std::memcpy(ordered_cos.data() + to * half, cos.data() + i * half, half * sizeof(float));
          std::memcpy(ordered_sin.data() + to * half, sin.data() + i * half, half * sizeof(float));
        }
        pass_.forward({layer, ordered.data(), n, ordered_cos.data(), ordered_sin.data(), &blocks});
        for (int64_t i = 0; i < n; ++i)
          std::memcpy(x.data() + i * C, ordered.data() + blocks[i].full_begin * C, C * sizeof(float));
      }
      response_.stats.decode_layer_rows += n * decoder_.layers;

      std::vector<int64_t> rows(n);
      std::vector<const Head*> heads(n);
      for (int64_t i = 0; i < n; ++i) {
        rows[i] = i;
        heads[i] = trial(active[i].trial).model->head.get();
      }
      std::vector<float> logits = logits_of(x, rows, heads);
      std::vector<Decoding> going;
      for (int64_t i = 0; i < n; ++i) {
        Decoding& d = active[i];
        edit_logits(d.trial, &d.row, 1, logits.data() + i * V, false);
        for (auto& sink : sinks_[d.trial])
          if (sink->edit().site == Site::kLogits && sink->edit().decode && contains(sink->edit().rows, d.row))
            sink->add_row(0, logits.data() + i * V, V, 0);
        ++d.row;
        if (choose(d.trial, logits.data() + i * V))
          going.push_back(std::move(d));
        else
          ++finished;
      }
      active = std::move(going);
    }
    if (total > 0) control_.report(Stage::kDecode, finished, total);
  }

  void decode_block(Decoding& d, int32_t layer, Block& block) {
    const int32_t t = d.trial;
    block.weights = trial(t).model->layers[layer].get();
    block.rows = {d.row};
    block.full = 1;
    block.index = {-1};
    block.index_from = d.row;
    block.prompt_rows = prompt_of(t).rows();
    for (const Edit& edit : trial(t).edits)
      if (!edit.captures() && edit.decode && edit.tower == Tower::kDecoder && edit.site != Site::kLogits &&
          edit.at_layer(layer) && contains(edit.rows, d.row))
        block.edits.push_back({&edit, -1});
    block.captures = captures_at(t, layer, false);
    block.cuts = &plan_.cuts[trial(t).prompt];
    block.prefix = &keys_[layer][plan_.node_of[layer][t]];
    block.keys = &d.tail[layer];
    block.page = &d.page[layer];
    block.page_used = &d.used[layer];
  }

  const Request& request_;
  ThreadPool& pool_;
  const RunControl& control_;
  const ModelConfig& config_;
  const DecoderConfig& decoder_;
  KvArena arena_;
  DecoderPass pass_;
  Response response_;
  std::vector<std::vector<std::unique_ptr<CaptureSink>>> sinks_;
  std::vector<VisionJob> jobs_;
  std::vector<std::vector<int32_t>> job_of_;  // (trials)(images)
  std::vector<std::vector<float>> image_tokens_;
  std::vector<std::vector<float>> roots_;  // (n, C)
  std::vector<std::vector<float>> cos_of_, sin_of_;
  Plan plan_;
  std::vector<std::vector<KeyList>> keys_;  // (L)(nodes)
  std::vector<Block> last_blocks_;
  std::vector<float> last_x_, logits_;
  std::map<std::pair<int32_t, int32_t>, int64_t> logit_rows_;
};

}  // namespace

Response run(const Request& request, ThreadPool& pool, const RunControl& control) {
  if (request.trials.empty()) return {};
  validate(request);
  Response response = Runner(request, pool, control).run();
#if defined(__GLIBC__)
  // Requests run on whichever libuv thread is free, and glibc keeps freed memory per thread: without this four
  // requests in a row hold four requests' memory.
  malloc_trim(0);
#endif
  return response;
}

}  // namespace galvani
