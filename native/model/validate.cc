// What memory safety and meaning need of a request, checked once at the door of the engine. lib/engine.ts has already
// said the same things in terms of spans and names; these messages speak of trial and edit numbers.
#include <algorithm>

#include "core/status.h"
#include "model/engine.h"

namespace galvani {
namespace {

[[noreturn]] void bad(const std::string& where, const std::string& what) { throw Error(Code::kBadArgument, where + ": " + what); }

bool same_architecture(const ModelConfig& a, const ModelConfig& b) {
  const DecoderConfig &x = a.decoder, &y = b.decoder;
  if (x.layers != y.layers || x.width != y.width || x.heads != y.heads || x.kv_heads != y.kv_heads || x.head_dim != y.head_dim ||
      x.mlp_width != y.mlp_width || x.vocab != y.vocab || x.mrope_section != y.mrope_section || x.rope_theta != y.rope_theta ||
      x.rms_eps != y.rms_eps || a.vision.has_value() != b.vision.has_value())
    return false;
  if (!a.vision) return true;
  const VisionConfig &v = *a.vision, &w = *b.vision;
  return v.layers == w.layers && v.width == w.width && v.heads == w.heads && v.mlp_width == w.mlp_width && v.patch_dim == w.patch_dim &&
         v.patch_size == w.patch_size && v.merge_size == w.merge_size && v.window_size == w.window_size &&
         v.full_attention_layers == w.full_attention_layers && v.out_width == w.out_width;
}

int64_t image_rows(const Request& request, const PromptInput& prompt, Tower tower, const ModelConfig& config) {
  int64_t patches = 0;
  for (const ImagePlace& place : prompt.images) patches += request.images[place.image].patches();
  return tower == Tower::kProjector ? patches / (config.vision->merge_size * config.vision->merge_size) : patches;
}

void check_ranges(const std::string& where, const RowRanges& ranges, int64_t limit, bool open_allowed) {
  int32_t previous = 0;
  for (const RowRange& range : ranges) {
    if (range.begin < previous || range.end < range.begin) bad(where, "ranges must be sorted, disjoint and non-negative");
    if (range.end == kOpenEnd) {
      if (!open_allowed) bad(where, "an open range has no meaning here");
    } else if (range.end > limit) {
      bad(where, "range [" + std::to_string(range.begin) + ", " + std::to_string(range.end) + ") exceeds " + std::to_string(limit) + " rows");
    }
    previous = range.end;
  }
}

int64_t count_rows(const RowRanges& ranges) {
  int64_t total = 0;
  for (const RowRange& range : ranges) total += range.end - range.begin;
  return total;
}

void check_edit(const Request& request, int32_t t, int32_t e) {
  const TrialInput& trial = request.trials[t];
  const Edit& edit = trial.edits[e];
  const PromptInput& prompt = request.prompts[trial.prompt];
  const ModelConfig& config = trial.model->config;
  const std::string where = "trial " + std::to_string(t) + ", intervention " + std::to_string(e) + " (" + site_name(edit.site) + ")";

  const bool in_decoder = edit.tower == Tower::kDecoder;
  if (!in_decoder && !config.vision) bad(where, "the model has no vision tower");
  if (!in_decoder && (edit.site == Site::kAttnLogits || edit.site == Site::kLogits))
    throw Error(Code::kUnsupported, where + ": the vision tower has no such site here; decoder only");
  if (edit.tower == Tower::kProjector && edit.site != Site::kResidPost)
    throw Error(Code::kUnsupported, where + ": the projector has one site, resid_post (its image tokens)");

  const int32_t layers = in_decoder ? config.decoder.layers : edit.tower == Tower::kVision ? config.vision->layers : 1;
  if (!std::is_sorted(edit.layers.begin(), edit.layers.end())) bad(where, "layers must be sorted");
  for (int32_t layer : edit.layers)
    if (layer < 0 || layer >= layers) bad(where, "layer " + std::to_string(layer) + " is outside [0, " + std::to_string(layers) + ")");
  const bool kv = edit.site == Site::kK || edit.site == Site::kV;
  const int32_t heads = !in_decoder ? config.vision->heads : kv ? config.decoder.kv_heads : config.decoder.heads;
  for (int32_t head : edit.heads)
    if (head < 0 || head >= heads) bad(where, "head " + std::to_string(head) + " is outside [0, " + std::to_string(heads) + ")");
  if (!edit.heads.empty() && !kSites[static_cast<int>(edit.site)].per_head) bad(where, "this site has no heads");

  const int64_t rows = in_decoder ? prompt.rows() : image_rows(request, prompt, edit.tower, config);
  check_ranges(where + " rows", edit.rows, in_decoder ? kOpenEnd : rows, true);
  for (const RowRanges& span : edit.keys) check_ranges(where + " keys", span, kOpenEnd, true);

  const int64_t head_dim = in_decoder ? config.decoder.head_dim : config.vision->width / config.vision->heads;
  int64_t width = in_decoder ? config.decoder.width : edit.tower == Tower::kVision ? config.vision->width : config.vision->out_width;
  if (edit.site == Site::kLogits) width = config.decoder.vocab;
  if (kSites[static_cast<int>(edit.site)].per_head) width = heads * head_dim;
  if (edit.vector && static_cast<int64_t>(edit.vector->size()) != width)
    throw Error(Code::kShapeMismatch, where + ": value has " + std::to_string(edit.vector->size()) + " numbers, the site has " + std::to_string(width));

  if (edit.source >= 0) {
    if (edit.source >= static_cast<int32_t>(request.trials.size())) bad(where, "source trial does not exist");
    const TrialInput& source = request.trials[edit.source];
    const PromptInput& source_prompt = request.prompts[source.prompt];
    const int64_t source_rows = in_decoder ? source_prompt.rows() : image_rows(request, source_prompt, edit.tower, config);
    check_ranges(where + " source rows", edit.source_rows, source_rows, false);
    if (count_rows(edit.source_rows) == 0) bad(where, "the source span is empty");
    if (!in_decoder && source_prompt.images.size() != prompt.images.size())
      bad(where, "the source prompt has " + std::to_string(source_prompt.images.size()) + " images, the target " + std::to_string(prompt.images.size()));
  }
  const bool open = !edit.rows.empty() && edit.rows.back().end == kOpenEnd;
  switch (edit.op) {
    case EditOp::kPatch:
      if (edit.source < 0) bad(where, "patch needs a source run");
      if (open) bad(where, "patch needs a closed span: generated rows have no counterpart in the source run");
      if (count_rows(edit.rows) != count_rows(edit.source_rows))
        throw Error(Code::kShapeMismatch, where + ": the span has " + std::to_string(count_rows(edit.rows)) + " rows, the source span " +
                                              std::to_string(count_rows(edit.source_rows)));
      check_ranges(where + " rows", edit.rows, rows, false);
      break;
    case EditOp::kResample:
      if (edit.source < 0) bad(where, "resample needs a source run");
      if (edit.decode && open) throw Error(Code::kUnsupported, where + ": resample acts on prompt rows only");
      break;
    case EditOp::kMean:
      if (!edit.vector && edit.decode && open)
        throw Error(Code::kUnsupported, where + ": without a mean vector, mean acts on prompt rows only (phase 'prefill')");
      break;
    case EditOp::kKnockout:
      if (edit.site != Site::kAttnLogits) bad(where, "knockout acts at attn_logits");
      break;
    case EditOp::kScale:
      if (edit.site == Site::kAttnLogits && !(edit.scalar >= 0.0f)) bad(where, "an attention score may not be scaled by a negative number");
      break;
    case EditOp::kZero:
    case EditOp::kAdd:
    case EditOp::kCapture: break;
  }
  if (edit.site == Site::kAttnLogits && !edit.captures()) {
    if (edit.op != EditOp::kKnockout && edit.op != EditOp::kAdd && edit.op != EditOp::kScale)
      throw Error(Code::kUnsupported, where + ": attn_logits takes knockout, add, scale and capture");
    if (edit.vector) bad(where, "add at attn_logits takes one number");
  }
  if (edit.captures() && (edit.capture < 0 || edit.capture >= trial.captures)) bad(where, "capture slot out of range");
  if (edit.captures() && (edit.site == Site::kAttnLogits) == (edit.measure == Measure::kValue))
    bad(where, "a capture measures mass, entropy, lse or keyMass at attn_logits, and values elsewhere");
}

}  // namespace

void validate(const Request& request) {
  for (size_t i = 0; i < request.images.size(); ++i) {
    const ImageInput& image = request.images[i];
    if (image.grid[0] < 1 || image.grid[1] < 1 || image.grid[2] < 1) bad("image " + std::to_string(i), "empty grid");
  }
  for (size_t p = 0; p < request.prompts.size(); ++p) {
    const PromptInput& prompt = request.prompts[p];
    const std::string where = "prompt " + std::to_string(p);
    if (prompt.ids.empty()) bad(where, "no tokens");
    if (prompt.positions.size() != 3 * prompt.ids.size())
      throw Error(Code::kShapeMismatch, where + ": expected positions [3, " + std::to_string(prompt.ids.size()) + "], got " +
                                            std::to_string(prompt.positions.size()) + " numbers");
    for (const ImagePlace& place : prompt.images) {
      if (place.image < 0 || place.image >= static_cast<int32_t>(request.images.size())) bad(where, "image does not exist");
      if (place.start < 0 || place.count < 1 || int64_t{place.start} + place.count > prompt.rows()) bad(where, "image span lies outside the prompt");
    }
  }
  const int32_t count = static_cast<int32_t>(request.trials.size());
  for (int32_t t = 0; t < count; ++t) {
    const TrialInput& trial = request.trials[t];
    const std::string where = "trial " + std::to_string(t);
    if (trial.prompt < 0 || trial.prompt >= static_cast<int32_t>(request.prompts.size())) bad(where, "prompt does not exist");
    if (!same_architecture(trial.model->config, request.trials[0].model->config))
      throw Error(Code::kShapeMismatch, where + ": all models of one request must have one architecture");
    if (trial.kl_to >= count) bad(where, "klTo names no trial");
    const PromptInput& prompt = request.prompts[trial.prompt];
    const ModelConfig& config = trial.model->config;
    if (!prompt.images.empty() && !config.vision) throw Error(Code::kUnsupported, where + ": the prompt has images, the model no vision tower");
    for (const ImagePlace& place : prompt.images) {
      const ImageInput& image = request.images[place.image];
      const int32_t merge = config.vision->merge_size;
      if (image.grid[1] % merge || image.grid[2] % merge) bad(where, "image grid is not a multiple of the merge size");
      if (place.count != image.patches() / (merge * merge))
        throw Error(Code::kShapeMismatch, where + ": image span has " + std::to_string(place.count) + " rows, the image gives " +
                                              std::to_string(image.patches() / (merge * merge)) + " tokens");
    }
    for (int32_t id : prompt.ids)
      if (id < 0 || id >= config.decoder.vocab) bad(where, "token id " + std::to_string(id) + " is outside the vocabulary of " + std::to_string(config.decoder.vocab));
    for (int32_t id : trial.score_tokens)
      if (id < 0 || id >= config.decoder.vocab) bad(where, "scored token id " + std::to_string(id) + " is outside the vocabulary");
    for (int32_t e = 0; e < static_cast<int32_t>(trial.edits.size()); ++e) check_edit(request, t, e);
  }
}

}  // namespace galvani
