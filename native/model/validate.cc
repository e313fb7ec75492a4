// What memory safety and meaning need of a request, checked once at the door of the engine. lib/engine.ts has already
// said the same things in terms of spans and names; these messages speak of trial and edit numbers.
#include <algorithm>
#include <cmath>

#include "core/status.h"
#include "model/engine.h"

namespace galvani {
namespace {

[[noreturn]] void bad(const std::string& where, const std::string& what) {
  throw Error(Code::kBadArgument, where + ": " + what);
}

bool same_architecture(const ModelConfig& a, const ModelConfig& b) {
  const DecoderConfig &x = a.decoder, &y = b.decoder;
  if (x.layers != y.layers || x.width != y.width || x.heads != y.heads || x.kv_heads != y.kv_heads ||
      x.head_dim != y.head_dim || x.mlp_width != y.mlp_width || x.vocab != y.vocab ||
      x.mrope_section != y.mrope_section || x.rope_theta != y.rope_theta || x.rms_eps != y.rms_eps ||
      a.vision.has_value() != b.vision.has_value())
    return false;
  if (!a.vision) return true;
  const VisionConfig &v = *a.vision, &w = *b.vision;
  return v.layers == w.layers && v.width == w.width && v.heads == w.heads && v.mlp_width == w.mlp_width &&
         v.patch_dim == w.patch_dim && v.patch_size == w.patch_size && v.merge_size == w.merge_size &&
         v.window_size == w.window_size && v.full_attention_layers == w.full_attention_layers &&
         v.out_width == w.out_width;
}

int64_t image_rows(const Request& request, const PromptInput& prompt, Tower tower, const ModelConfig& config) {
  int64_t patches = 0;
  for (const ImagePlace& place : prompt.images) patches += request.images[place.image].patches();
  return tower == Tower::kProjector ? patches / (config.vision->merge_size * config.vision->merge_size) : patches;
}

void check_ranges(const std::string& where, const RowRanges& ranges, int64_t limit, bool open_allowed) {
  int32_t previous = 0;
  for (const RowRange& range : ranges) {
    if (range.begin < previous || range.end < range.begin)
      bad(where, "ranges must be sorted, disjoint and non-negative");
    if (range.end == kOpenEnd) {
      if (!open_allowed) bad(where, "an open range has no meaning here");
    } else if (range.end > limit) {
      bad(where, "range [" + std::to_string(range.begin) + ", " + std::to_string(range.end) + ") exceeds " +
                     std::to_string(limit) + " rows");
    }
    previous = range.end;
  }
}

// Positions beyond this are not whole in float32, where RoPE's angles are computed.
constexpr int64_t kMaxPosition = int64_t{1} << 24;

void check_indices(const std::string& where, const char* what, const std::vector<int32_t>& values, int32_t limit) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] < 0 || values[i] >= limit)
      bad(where,
          std::string(what) + " " + std::to_string(values[i]) + " is outside [0, " + std::to_string(limit) + ")");
    if (i > 0 && values[i] <= values[i - 1])
      bad(where, std::string(what) + "s must ascend, got " + std::to_string(values[i]) + " after " +
                     std::to_string(values[i - 1]));
  }
}

// Numbers of one pattern capture: 4 GiB. Whoever asks for every row of a long prompt should hear it before it runs.
constexpr double kMaxPattern = 1 << 30;

// In the towers every image is a run of its own: what its rows read lies in the source's image of the same place.
void check_images(const Request& request, const Edit& edit, const PromptInput& prompt, const PromptInput& source,
                  int32_t unit, const std::string& where) {
  if (source.images.size() != prompt.images.size())
    bad(where, "the source prompt has " + std::to_string(source.images.size()) + " images, the target " +
                   std::to_string(prompt.images.size()));
  int32_t first = 0, source_first = 0;
  for (size_t i = 0; i < prompt.images.size(); ++i) {
    const int32_t count = static_cast<int32_t>(request.images[prompt.images[i].image].patches()) / unit;
    const int32_t source_count = static_cast<int32_t>(request.images[source.images[i].image].patches()) / unit;
    const int64_t rows = count_rows(clip(edit.rows, first, count));
    const int64_t source_rows = count_rows(clip(edit.source_rows, source_first, source_count));
    if (rows > 0 && (source_rows == 0 || (edit.op == EditOp::kPatch && rows != source_rows)))
      throw Error(Code::kShapeMismatch, where + ": image " + std::to_string(i) + " has " + std::to_string(rows) +
                                            " rows in the span, the source's image " + std::to_string(source_rows));
    first += count;
    source_first += source_count;
  }
}

// What a capture measures, and that it fits. `rows` of the prompt.
void check_measure(const TrialInput& trial, const Edit& edit, int64_t rows, const std::string& where) {
  if ((edit.site == Site::kAttnLogits) == (edit.measure == Measure::kValue))
    bad(where,
        "a capture measures mass, entropy, lse, keyMass, topKeys or pattern at attn_logits, and values elsewhere");
  if (edit.measure == Measure::kMass && edit.keys.empty()) bad(where, "mass needs at least one key span");
  if (edit.measure != Measure::kMass && !edit.keys.empty())
    bad(where, "of the captures only mass takes keys; the others are about all of them");
  if (edit.measure == Measure::kTopKeys && (edit.top_k < 1 || edit.top_k > kMaxTopKeys))
    bad(where, "k: topKeys gives 1 to " + std::to_string(kMaxTopKeys) + " keys, got " + std::to_string(edit.top_k));
  if (edit.measure != Measure::kTopKeys && edit.top_k != 0) bad(where, "k belongs to topKeys");
  if (edit.measure != Measure::kPattern) return;
  int64_t captured = 0;
  for (const RowRange& range : edit.rows)
    captured += std::max<int64_t>(0, std::min<int64_t>(range.end, rows + trial.max_tokens) - range.begin);
  // What is kept, and what one layer gives on the way there: all heads.
  const int64_t all = trial.model->config.decoder.heads;
  const int64_t heads = edit.heads.empty() ? all : static_cast<int64_t>(edit.heads.size());
  const double numbers = static_cast<double>(captured) * static_cast<double>(rows + trial.max_tokens) *
                         static_cast<double>(std::max(all, heads * static_cast<int64_t>(edit.layers.size())));
  if (numbers > kMaxPattern)
    bad(where, "a pattern of up to " + std::to_string(static_cast<int64_t>(numbers)) +
                   " numbers; at most 2^30 in one capture: name fewer rows or layers");
}

void check_edit(const Request& request, int32_t t, int32_t e) {
  const TrialInput& trial = request.trials[t];
  const Edit& edit = trial.edits[e];
  const PromptInput& prompt = request.prompts[trial.prompt];
  const ModelConfig& config = trial.model->config;
  const std::string where =
      "trial " + std::to_string(t) + ", intervention " + std::to_string(e) + " (" + site_name(edit.site) + ")";

  const bool in_decoder = edit.tower == Tower::kDecoder;
  if (!in_decoder && !config.vision) bad(where, "the model has no vision tower");
  if (!in_decoder && (edit.at_edges() || edit.site == Site::kLogits))
    throw Error(Code::kUnsupported, where + ": the vision tower has no such site here; decoder only");
  if (edit.tower == Tower::kProjector && edit.site != Site::kResidPost)
    throw Error(Code::kUnsupported, where + ": the projector has one site, resid_post (its image tokens)");

  const int32_t layers = in_decoder ? config.decoder.layers : edit.tower == Tower::kVision ? config.vision->layers : 1;
  check_indices(where, "layer", edit.layers, layers);
  const bool kv = edit.site == Site::kK || edit.site == Site::kV;
  const int32_t heads = !in_decoder ? config.vision->heads : kv ? config.decoder.kv_heads : config.decoder.heads;
  check_indices(where, "head", edit.heads, heads);
  if (!edit.heads.empty() && !kSites[static_cast<int>(edit.site)].per_head) bad(where, "this site has no heads");

  const int64_t rows = in_decoder ? prompt.rows() : image_rows(request, prompt, edit.tower, config);
  check_ranges(where + " rows", edit.rows, in_decoder ? kOpenEnd : rows, true);
  for (const RowRanges& span : edit.keys) check_ranges(where + " keys", span, kOpenEnd, true);
  if (!edit.keys.empty() && !edit.at_edges()) bad(where, "keys belong to attn_logits and pattern");
  if (!std::isfinite(edit.scalar))
    bad(where, "expected a finite number in float32, got " + std::to_string(edit.scalar));

  const int64_t head_dim = in_decoder ? config.decoder.head_dim : config.vision->width / config.vision->heads;
  int64_t width = in_decoder                     ? config.decoder.width
                  : edit.tower == Tower::kVision ? config.vision->width
                                                 : config.vision->out_width;
  if (edit.site == Site::kLogits) width = config.decoder.vocab;
  if (kSites[static_cast<int>(edit.site)].per_head) width = heads * head_dim;
  if (edit.vector && static_cast<int64_t>(edit.vector->size()) != width)
    throw Error(Code::kShapeMismatch, where + ": value has " + std::to_string(edit.vector->size()) +
                                          " numbers, the site has " + std::to_string(width));

  if (edit.source >= 0) {
    if (edit.op != EditOp::kPatch && edit.op != EditOp::kResample && edit.op != EditOp::kMean)
      bad(where, "only patch, resample and mean read a source run");
    if (edit.source >= static_cast<int32_t>(request.trials.size())) bad(where, "source trial does not exist");
    const TrialInput& source = request.trials[edit.source];
    const PromptInput& source_prompt = request.prompts[source.prompt];
    const int64_t source_rows =
        in_decoder ? source_prompt.rows() : image_rows(request, source_prompt, edit.tower, config);
    check_ranges(where + " source rows", edit.source_rows, source_rows, false);
    if (count_rows(edit.source_rows) == 0) bad(where, "the source span is empty");
    if (!in_decoder)
      check_images(request, edit, prompt, source_prompt,
                   edit.tower == Tower::kProjector ? config.vision->merge_size * config.vision->merge_size : 1, where);
  }
  const bool open = !edit.rows.empty() && edit.rows.back().end == kOpenEnd;
  // Acts on generated rows, which a source run or a mean over the prompt's rows cannot serve.
  const bool generated = in_decoder && edit.decode && !edit.rows.empty() && edit.rows.back().end > rows;
  switch (edit.op) {
    case EditOp::kPatch:
      if (edit.source < 0) bad(where, "patch needs a source run");
      if (open) bad(where, "patch needs a closed span: generated rows have no counterpart in the source run");
      if (count_rows(edit.rows) != count_rows(edit.source_rows))
        throw Error(Code::kShapeMismatch, where + ": the span has " + std::to_string(count_rows(edit.rows)) +
                                              " rows, the source span " + std::to_string(count_rows(edit.source_rows)));
      check_ranges(where + " rows", edit.rows, rows, false);
      break;
    case EditOp::kResample:
      if (edit.source < 0) bad(where, "resample needs a source run");
      if (generated) throw Error(Code::kUnsupported, where + ": resample acts on prompt rows only (phase 'prefill')");
      break;
    case EditOp::kMean:
      if (!edit.vector && generated)
        throw Error(Code::kUnsupported,
                    where + ": without a mean vector, mean acts on prompt rows only (phase 'prefill')");
      break;
    case EditOp::kKnockout:
      if (edit.site != Site::kAttnLogits) bad(where, "knockout acts at attn_logits");
      break;
    case EditOp::kScale:
      if (edit.at_edges() && !(edit.scalar >= 0.0f))
        bad(where, "scores and probabilities of attention may not be scaled by a negative number, got " +
                       std::to_string(edit.scalar));
      break;
    case EditOp::kZero:
    case EditOp::kAdd:
    case EditOp::kCapture:
      break;
  }
  if (edit.site == Site::kAttnLogits && !edit.captures()) {
    if (edit.op != EditOp::kKnockout && edit.op != EditOp::kAdd && edit.op != EditOp::kScale)
      throw Error(Code::kUnsupported, where + ": attn_logits takes knockout, add, scale and capture");
    if (edit.vector) bad(where, "add at attn_logits takes one number");
  }
  if (edit.site == Site::kPattern && edit.op != EditOp::kZero && edit.op != EditOp::kScale)
    throw Error(Code::kUnsupported,
                where + ": pattern takes zero and scale; it is read by a capture at attn_logits with measure pattern");
  if (edit.captures()) check_measure(request.trials[t], edit, prompt.rows(), where);
}

void check_prompt(const Request& request, const PromptInput& prompt, const std::string& where) {
  if (prompt.ids.empty()) bad(where, "no tokens");
  if (prompt.positions.size() != 3 * prompt.ids.size())
    throw Error(Code::kShapeMismatch, where + ": expected positions [3, " + std::to_string(prompt.ids.size()) +
                                          "], got " + std::to_string(prompt.positions.size()) + " numbers");
  for (int32_t position : prompt.positions)
    if (position < 0 || position >= kMaxPosition)
      bad(where, "expected positions in [0, " + std::to_string(kMaxPosition) + "), got " + std::to_string(position));
  if (prompt.next_position < 0 || prompt.next_position >= kMaxPosition)
    bad(where, "nextPosition: expected a number in [0, " + std::to_string(kMaxPosition) + "), got " +
                   std::to_string(prompt.next_position));
  int64_t patches = 0;
  std::vector<std::pair<int32_t, int32_t>> spans;
  for (const ImagePlace& place : prompt.images) {
    if (place.image < 0 || place.image >= static_cast<int32_t>(request.images.size()))
      bad(where, "image " + std::to_string(place.image) + " does not exist; the request has " +
                     std::to_string(request.images.size()));
    if (place.start < 0 || place.count < 1 || int64_t{place.start} + place.count > prompt.rows())
      bad(where, "image span [" + std::to_string(place.start) + ", " +
                     std::to_string(int64_t{place.start} + place.count) + ") lies outside the prompt's " +
                     std::to_string(prompt.rows()) + " rows");
    patches += request.images[place.image].patches();
    spans.emplace_back(place.start, place.start + place.count);
  }
  if (patches > kOpenEnd) bad(where, std::to_string(patches) + " image patches; row numbers have 31 bits");
  std::sort(spans.begin(), spans.end());
  for (size_t i = 1; i < spans.size(); ++i)
    if (spans[i].first < spans[i - 1].second)
      bad(where, "image spans overlap at row " + std::to_string(spans[i].first));
}

// Every slot is filled by exactly one capture.
void check_captures(const TrialInput& trial, const std::string& where) {
  std::vector<int32_t> slots;
  for (const Edit& edit : trial.edits)
    if (edit.captures()) slots.push_back(edit.capture);
  std::sort(slots.begin(), slots.end());
  bool each_once = static_cast<int64_t>(slots.size()) == trial.captures;
  for (size_t i = 0; i < slots.size(); ++i) each_once = each_once && slots[i] == static_cast<int32_t>(i);
  if (!each_once)
    bad(where, "captures: expected slots 0 … " + std::to_string(int64_t{trial.captures} - 1) +
                   ", each filled by one capture; got " + std::to_string(slots.size()) + " captures");
}

void check_sampling(const TrialInput& trial, const PromptInput& prompt, const std::string& where) {
  const SampleOptions& s = trial.sampling;
  if (!(s.temperature >= 0.0f) || !std::isfinite(s.temperature))
    bad(where, "temperature: expected a finite number ≥ 0, got " + std::to_string(s.temperature));
  if (s.top_k < 0) bad(where, "topK: expected a number ≥ 0, got " + std::to_string(s.top_k));
  if (!(s.top_p > 0.0f && s.top_p <= 1.0f))
    bad(where, "topP: expected a number in (0, 1], got " + std::to_string(s.top_p));
  const int64_t most = kMaxPosition - prompt.next_position;
  if (trial.max_tokens < 0 || trial.max_tokens > most)
    bad(where,
        "maxTokens: expected a number in [0, " + std::to_string(most) + "], got " + std::to_string(trial.max_tokens));
}

}  // namespace

void validate(const Request& request) {
  for (size_t i = 0; i < request.images.size(); ++i) {
    const ImageInput& image = request.images[i];
    int64_t patches = 1;
    for (int32_t side : image.grid) {
      if (side < 1) bad("image " + std::to_string(i), "grid: expected three numbers ≥ 1, got " + std::to_string(side));
      patches *= side;
      if (patches > kOpenEnd) bad("image " + std::to_string(i), "grid: more than 2^31 patches");
    }
  }
  for (size_t p = 0; p < request.prompts.size(); ++p)
    check_prompt(request, request.prompts[p], "prompt " + std::to_string(p));
  const int32_t count = static_cast<int32_t>(request.trials.size());
  for (int32_t t = 0; t < count; ++t) {
    const TrialInput& trial = request.trials[t];
    const std::string where = "trial " + std::to_string(t);
    if (trial.prompt < 0 || trial.prompt >= static_cast<int32_t>(request.prompts.size()))
      bad(where, "prompt " + std::to_string(trial.prompt) + " does not exist; the request has " +
                     std::to_string(request.prompts.size()));
    const PromptInput& prompt = request.prompts[trial.prompt];
    const ModelConfig& config = trial.model->config;
    if (!same_architecture(config, request.trials[0].model->config))
      throw Error(Code::kShapeMismatch, where + ": all models of one request must have one architecture");
    if (trial.kl_to >= count)
      bad(where,
          "klTo: trial " + std::to_string(trial.kl_to) + " does not exist; the request has " + std::to_string(count));
    check_captures(trial, where);
    check_sampling(trial, prompt, where);
    if (!prompt.images.empty() && !config.vision)
      throw Error(Code::kUnsupported, where + ": the prompt has images, the model no vision tower");
    for (const ImagePlace& place : prompt.images) {
      const ImageInput& image = request.images[place.image];
      const int32_t merge = config.vision->merge_size;
      if (image.grid[1] % merge || image.grid[2] % merge)
        bad(where, "image grid " + std::to_string(image.grid[1]) + " x " + std::to_string(image.grid[2]) +
                       " is not a multiple of the merge size " + std::to_string(merge));
      if (place.count != image.patches() / (merge * merge))
        throw Error(Code::kShapeMismatch, where + ": image span has " + std::to_string(place.count) +
                                              " rows, the image gives " +
                                              std::to_string(image.patches() / (merge * merge)) + " tokens");
    }
    for (int32_t id : prompt.ids)
      if (id < 0 || id >= config.decoder.vocab)
        bad(where,
            "token id " + std::to_string(id) + " is outside the vocabulary of " + std::to_string(config.decoder.vocab));
    for (int32_t id : trial.score_tokens)
      if (id < 0 || id >= config.decoder.vocab)
        bad(where, "scored token id " + std::to_string(id) + " is outside the vocabulary of " +
                       std::to_string(config.decoder.vocab));
  }
  // Interventions last: they read their source trial's prompt, which may come later in the list.
  for (int32_t t = 0; t < count; ++t)
    for (int32_t e = 0; e < static_cast<int32_t>(request.trials[t].edits.size()); ++e) check_edit(request, t, e);
}

}  // namespace galvani
