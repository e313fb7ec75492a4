// Runs a request: encodes images once, walks the plan's tree layer by layer, decodes all trials in one ragged batch.
#pragma once
#include <atomic>
#include <functional>
#include <memory>

#include "model/plan.h"

namespace galvani {

enum class Stage { kVision, kPrefill, kDecode };

struct RunControl {
  const std::atomic<bool>* cancelled = nullptr;
  std::function<void(Stage, int64_t done, int64_t total)> progress;  // may be empty

  void check() const;  // throws ABORTED
  void report(Stage stage, int64_t done, int64_t total) const {
    if (progress) progress(stage, done, total);
  }
};

// Throws BAD_ARGUMENT, SHAPE_MISMATCH or UNSUPPORTED for anything that would read outside a buffer or has no meaning.
void validate(const Request& request);

Response run(const Request& request, ThreadPool& pool, const RunControl& control);

}  // namespace galvani
