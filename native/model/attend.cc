#include "model/attend.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <string>

#include "core/status.h"

namespace galvani {
namespace {

// The edits of one block at attn_logits and pattern as the table that attention reads.
struct EditTable {
  std::vector<uint8_t> head_class, row_class;
  std::vector<ScoreEdit> table;
  ScoreEdits view;
};

// Rows (or heads) touched by the same edits form a class.
uint8_t class_of(std::map<std::string, uint8_t>& classes, const std::string& members) {
  const auto [it, fresh] = classes.try_emplace(members, static_cast<uint8_t>(classes.size()));
  if (classes.size() > 255)
    throw Error(Code::kUnsupported, "attn_logits, pattern: more than 255 distinct combinations of edits in one run");
  return it->second;
}

std::unique_ptr<EditTable> score_edits(const Block& block, const std::vector<KeyRun>& runs, int32_t heads) {
  std::vector<const Edit*> edits;
  for (const BoundEdit& bound : block.edits)
    if (bound.edit->at_edges()) edits.push_back(bound.edit);
  if (edits.empty()) return nullptr;
  auto made = std::make_unique<EditTable>();
  std::map<std::string, uint8_t> head_classes, row_classes;
  for (int32_t h = 0; h < heads; ++h) {
    std::string members;
    for (const Edit* edit : edits)
      members.push_back(edit->heads.empty() ||
                        std::find(edit->heads.begin(), edit->heads.end(), h) != edit->heads.end());
    made->head_class.push_back(class_of(head_classes, members));
  }
  for (int32_t r = 0; r < block.full; ++r) {
    std::string members;  // one flag per edit
    for (const Edit* edit : edits) members.push_back(contains(edit->rows, block.rows[r]));
    made->row_class.push_back(class_of(row_classes, members));
  }
  made->table.resize(head_classes.size() * row_classes.size() * runs.size());
  for (const auto& [head_members, hc] : head_classes) {
    for (const auto& [row_members, rc] : row_classes) {
      for (size_t run = 0; run < runs.size(); ++run) {
        ScoreEdit& cell = made->table[(hc * row_classes.size() + rc) * runs.size() + run];
        for (size_t e = 0; e < edits.size(); ++e) {
          if (!head_members[e] || !row_members[e]) continue;
          bool hit = edits[e]->keys.empty();
          for (const RowRanges& span : edits[e]->keys) hit = hit || contains(span, runs[run].index);
          if (!hit) continue;
          if (edits[e]->site == Site::kPattern) {
            cell.post *= edits[e]->op == EditOp::kZero ? 0.0f : edits[e]->scalar;
            continue;
          }
          switch (edits[e]->op) {
            case EditOp::kKnockout:
              cell.blocked = true;
              break;
            case EditOp::kAdd:
              cell.beta += edits[e]->scalar;
              break;
            case EditOp::kScale:
              cell.gamma *= edits[e]->scalar;
              cell.beta *= edits[e]->scalar;
              break;
            default:
              throw Error(Code::kInternal, "attn_logits: not a score edit");
          }
        }
      }
    }
  }
  made->view = {made->head_class.data(), made->row_class.data(), static_cast<int32_t>(row_classes.size()),
                made->table.data(), static_cast<int32_t>(runs.size())};
  return made;
}

// What one capture reads of a block: its rows, and room for what it measures.
struct Reading {
  CaptureSink* sink;
  std::vector<int32_t> row;  // (full) AttentionCapture::row
  int64_t rows = 0;
  std::vector<float> values;  // what is measured; of the top keys their probabilities
  std::vector<int32_t> keys;  // the top keys
};

// One attention item and everything its pointers point to.
struct Job {
  const Block* block;
  KeyRuns runs;
  std::unique_ptr<EditTable> edits;
  std::vector<int32_t> cuts, segment_of, limit;
  int32_t segments = 0;
  std::vector<Reading> readings;
  std::vector<AttentionCapture> captures;
};

// Mass captures of a block share one partition of the keys; each span is then a sum of its parts.
void add_segments(Job& job) {
  std::vector<const RowRanges*> spans;
  for (const Reading& reading : job.readings)
    if (reading.sink->edit().measure == Measure::kMass)
      for (const RowRanges& span : reading.sink->edit().keys) spans.push_back(&span);
  if (spans.empty()) {
    job.segment_of.assign(job.cuts.size() + 1, 0);
    return;
  }
  for (const RowRanges* span : spans)
    for (const RowRange& range : *span) {
      job.cuts.push_back(range.begin);
      if (range.end != kOpenEnd) job.cuts.push_back(range.end);
    }
  std::sort(job.cuts.begin(), job.cuts.end());
  job.cuts.erase(std::unique(job.cuts.begin(), job.cuts.end()), job.cuts.end());
  // Intervals that belong to the same spans of every capture are one segment.
  std::map<std::string, int32_t> segments;
  for (size_t i = 0; i <= job.cuts.size(); ++i) {
    const int32_t key = i == 0 ? (job.cuts.empty() || job.cuts[0] > 0 ? 0 : -1) : job.cuts[i - 1];
    std::string members;
    for (const RowRanges* span : spans) members.push_back(key >= 0 && contains(*span, key));
    job.segment_of.push_back(segments.try_emplace(members, static_cast<int32_t>(segments.size())).first->second);
  }
  job.segments = static_cast<int32_t>(segments.size());
}

// Keys that a row of the block may see: columns of key mass and patterns.
int64_t key_span(const Block& block) { return block.prefix ? block.rows[0] + 1 : block.prompt_rows; }

AttentionCapture prepare(Reading& reading, const Job& job, int64_t heads) {
  const Edit& edit = reading.sink->edit();
  AttentionCapture capture;
  capture.row = reading.row.data();
  capture.key_span = key_span(*job.block);
  const auto room = [&](int64_t count) {
    reading.values.resize(count);
    return reading.values.data();
  };
  switch (edit.measure) {
    case Measure::kMass:
      capture.segments = job.segments;
      capture.mass = room(reading.rows * heads * job.segments);
      break;
    case Measure::kEntropy:
      capture.entropy = room(reading.rows * heads);
      break;
    case Measure::kLse:
      capture.lse = room(reading.rows * heads);
      break;
    case Measure::kKeyMass:
      capture.key_mass = room(heads * capture.key_span);
      break;
    case Measure::kPattern:
      capture.pattern = room(reading.rows * heads * capture.key_span);
      break;
    case Measure::kTopKeys:
      capture.top_k = edit.top_k;
      capture.top_weight = room(reading.rows * heads * edit.top_k);
      reading.keys.resize(reading.values.size());
      capture.top_index = reading.keys.data();
      break;
    case Measure::kValue:
      throw Error(Code::kInternal, "attn_logits: not a read-out of attention");
  }
  return capture;
}

// Probability per wanted span, (H, spans), from one row's probability per segment.
std::vector<float> span_masses(const Job& job, const Edit& edit, const float* mass, int32_t heads) {
  std::vector<float> sums(heads * edit.keys.size(), 0.0f);
  for (size_t s = 0; s < edit.keys.size(); ++s) {
    std::vector<uint8_t> part(job.segments, 0);
    for (size_t i = 1; i <= job.cuts.size(); ++i)
      if (contains(edit.keys[s], job.cuts[i - 1])) part[job.segment_of[i]] = 1;
    for (int32_t h = 0; h < heads; ++h)
      for (int32_t g = 0; g < job.segments; ++g)
        if (part[g]) sums[h * edit.keys.size() + s] += mass[h * job.segments + g];
  }
  return sums;
}

void hand_over(const Reading& reading, const Job& job, int32_t layer, int32_t heads) {
  if (reading.rows == 0) return;
  CaptureSink& sink = *reading.sink;
  const Edit& edit = sink.edit();
  if (edit.measure == Measure::kKeyMass) {
    sink.add_key_mass(layer, reading.values.data(), heads, key_span(*job.block), reading.rows);
    return;
  }
  const int64_t size = static_cast<int64_t>(reading.values.size()) / reading.rows;
  for (int64_t r = 0; r < reading.rows; ++r) {
    const float* row = reading.values.data() + r * size;
    if (edit.measure == Measure::kMass)
      sink.add_heads(layer, span_masses(job, edit, row, heads).data(), heads, static_cast<int64_t>(edit.keys.size()));
    else if (edit.measure == Measure::kTopKeys)
      sink.add_top_keys(layer, reading.keys.data() + r * size, row, heads, edit.top_k);
    else
      sink.add_heads(layer, row, heads, size / heads);
  }
}

}  // namespace

void attend(const DecoderConfig& config, const KvArena& arena, const LayerInput& in, const float* q, float* z,
            ThreadPool& pool) {
  const int32_t H = config.heads, D = config.head_dim;
  const int64_t HD = int64_t{H} * D;
  std::vector<std::unique_ptr<Job>> jobs;
  std::vector<AttentionItem> items;
  for (const Block& block : *in.blocks) {
    if (block.full == 0) continue;
    jobs.push_back(std::make_unique<Job>());
    Job& job = *jobs.back();
    job.block = &block;
    job.cuts = *block.cuts;
    job.limit.assign(block.rows.begin(), block.rows.begin() + block.full);
    for (CaptureSink* sink : block.captures) {
      if (sink->edit().site != Site::kAttnLogits) continue;
      Reading reading{sink, {}, 0, {}, {}};
      for (int32_t row : job.limit)
        reading.row.push_back(contains(sink->edit().rows, row) ? static_cast<int32_t>(reading.rows++) : -1);
      if (reading.rows > 0) job.readings.push_back(std::move(reading));
    }
    add_segments(job);
    if (block.prefix) {
      job.runs.build(arena, *block.prefix, job.cuts, job.segment_of);
      job.runs.append(arena, *block.keys, job.cuts, job.segment_of);
    } else {
      job.runs.build(arena, *block.keys, job.cuts, job.segment_of);
    }
    const std::vector<KeyRun>& runs = job.runs.finish();
    job.edits = score_edits(block, runs, H);
    for (Reading& reading : job.readings) job.captures.push_back(prepare(reading, job, H));

    AttentionItem item{};
    item.q = q + block.full_begin * HD;
    item.q_stride = HD;
    item.out = z + block.full_begin * HD;
    item.out_stride = HD;
    item.rows = block.full;
    item.limit = job.limit.data();
    item.runs = runs.data();
    item.run_count = static_cast<int32_t>(runs.size());
    item.edits = job.edits ? &job.edits->view : nullptr;
    item.capture = job.captures.empty() ? nullptr : job.captures.data();
    item.captures = static_cast<int32_t>(job.captures.size());
    items.push_back(item);
  }
  const AttentionShape shape{H, config.kv_heads, D, 1.0f / std::sqrt(static_cast<float>(D))};
  attention(shape, items.data(), static_cast<int64_t>(items.size()), pool);
  for (const auto& job : jobs)
    for (const Reading& reading : job->readings) hand_over(reading, *job, in.layer, H);
}

}  // namespace galvani
