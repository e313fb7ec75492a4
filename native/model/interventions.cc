#include "model/interventions.h"

#include <algorithm>
#include <cstring>

#include "core/status.h"

namespace galvani {
namespace {

// splitmix64 (Steele et al. 2014): one multiply-shift hash per draw, the same on every machine.
uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

int32_t row_at(const RowRanges& ranges, int64_t ordinal) {
  for (const RowRange& range : ranges) {
    const int64_t length = range.end - range.begin;
    if (ordinal < length) return static_cast<int32_t>(range.begin + ordinal);
    ordinal -= length;
  }
  throw Error(Code::kInternal, "interventions: source row beyond its span");
}

int64_t ordinal_of(const RowRanges& ranges, int32_t row) {
  int64_t before = 0;
  for (const RowRange& range : ranges) {
    if (range.contains(row)) return before + row - range.begin;
    before += range.end - range.begin;
  }
  throw Error(Code::kInternal, "interventions: target row outside its span");
}

template <typename T>
void append(std::string& bytes, const T& value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
}
void append(std::string& bytes, const RowRanges& ranges) {
  append(bytes, static_cast<int32_t>(ranges.size()));
  for (const RowRange& range : ranges) {
    append(bytes, range.begin);
    append(bytes, range.end);
  }
}

}  // namespace

bool contains(const RowRanges& ranges, int32_t row) {
  for (const RowRange& range : ranges)
    if (range.contains(row)) return true;
  return false;
}

std::vector<int32_t> expand(const RowRanges& ranges, int32_t limit) {
  std::vector<int32_t> rows;
  for (const RowRange& range : ranges)
    for (int32_t row = range.begin; row < std::min(range.end, limit); ++row) rows.push_back(row);
  return rows;
}

int32_t first_row(const RowRanges& ranges) {
  int32_t first = kOpenEnd;
  for (const RowRange& range : ranges)
    if (range.begin < range.end) first = std::min(first, range.begin);
  return first;
}

RowRanges clip(const RowRanges& ranges, int32_t first, int32_t count) {
  RowRanges clipped;
  for (const RowRange& range : ranges) {
    const int32_t begin = std::max(range.begin, first), end = std::min(range.end, first + count);
    if (begin < end) clipped.push_back({begin - first, end - first});
  }
  return clipped;
}

int64_t count_rows(const RowRanges& ranges) {
  int64_t total = 0;
  for (const RowRange& range : ranges) total += int64_t{range.end} - range.begin;
  return total;
}

bool Edit::at_layer(int32_t layer) const { return std::binary_search(layers.begin(), layers.end(), layer); }

std::string Edit::content() const {
  std::string bytes;
  append(bytes, site);
  append(bytes, op);
  append(bytes, tower);
  append(bytes, static_cast<int32_t>(heads.size()));
  for (int32_t head : heads) append(bytes, head);
  append(bytes, rows);
  append(bytes, static_cast<int32_t>(keys.size()));
  for (const RowRanges& span : keys) append(bytes, span);
  append(bytes, scalar);
  append(bytes, seed);
  append(bytes, source_rows);
  append(bytes, measure);
  append(bytes, top_k);
  append(bytes, vector ? static_cast<int64_t>(vector->size()) : int64_t{-1});
  if (vector) bytes.append(reinterpret_cast<const char*>(vector->data()), vector->size() * sizeof(float));
  return bytes;
}

int32_t Edit::source_row_of(int32_t target) const {
  if (op == EditOp::kResample) {
    const uint64_t draw = mix(seed * 0x2545f4914f6cdd1dull + static_cast<uint64_t>(target));
    return row_at(source_rows, static_cast<int64_t>(draw % static_cast<uint64_t>(count_rows(source_rows))));
  }
  return row_at(source_rows, ordinal_of(rows, target));
}

void apply_edit(const Edit& edit, float* x, int64_t ldx, int64_t width, int64_t head_dim,
                std::span<const RowBlock> blocks, const SourceRow& source, const SourceRow& own, int32_t prompt_rows) {
  bool any = false;
  for (const RowBlock& block : blocks)
    for (int32_t i = 0; i < block.count && !any; ++i) any = contains(edit.rows, block.rows[i]);
  if (!any) return;

  // Columns touched: whole rows, or the listed heads.
  std::vector<std::pair<int64_t, int64_t>> columns;
  if (edit.heads.empty() || head_dim == 0) {
    columns.emplace_back(0, width);
  } else {
    for (int32_t head : edit.heads) columns.emplace_back(head * head_dim, (head + 1) * head_dim);
  }

  std::vector<float> mean;  // mean over the source's span, or over this run's own span
  const float* replacement = nullptr;
  if (edit.op == EditOp::kMean) {
    if (edit.vector) {
      replacement = edit.vector->data();
    } else {
      const std::vector<int32_t> rows =
          edit.source >= 0 ? expand(edit.source_rows, kOpenEnd) : expand(edit.rows, prompt_rows);
      std::vector<double> sum(width, 0.0);
      for (int32_t row : rows) {
        const float* from = (edit.source >= 0 ? source : own)(row);
        for (int64_t i = 0; i < width; ++i) sum[i] += from[i];
      }
      mean.resize(width);
      for (int64_t i = 0; i < width; ++i) mean[i] = rows.empty() ? 0.0f : static_cast<float>(sum[i] / rows.size());
      replacement = mean.data();
    }
  }

  for (const RowBlock& block : blocks) {
    for (int32_t i = 0; i < block.count; ++i) {
      if (!contains(edit.rows, block.rows[i])) continue;
      float* row = x + (block.begin + i) * ldx;
      const float* from = replacement;
      if (edit.op == EditOp::kPatch || edit.op == EditOp::kResample) from = source(edit.source_row_of(block.rows[i]));
      for (auto [begin, end] : columns) {
        switch (edit.op) {
          case EditOp::kZero:
            std::fill(row + begin, row + end, 0.0f);
            break;
          case EditOp::kMean:
          case EditOp::kPatch:
          case EditOp::kResample:
            std::memcpy(row + begin, from + begin, (end - begin) * sizeof(float));
            break;
          case EditOp::kAdd:
            for (int64_t c = begin; c < end; ++c) row[c] += edit.vector ? (*edit.vector)[c] : edit.scalar;
            break;
          case EditOp::kScale:
            for (int64_t c = begin; c < end; ++c) row[c] *= edit.scalar;
            break;
          case EditOp::kKnockout:
          case EditOp::kCapture:
            throw Error(Code::kInternal, "apply_edit: not an activation edit");
        }
      }
    }
  }
}

}  // namespace galvani
