// Compares what a device gave with the float64 reference and with the CPU twin, and looks at what must not be written.
//
// Tolerances, beyond what a row's own scores cost (RowReference::slack, which grows with Σ|q·k| and matters for scores
// of 1e3 and more):
//   out      2^-8 of Σ p·|v|, bfloat16 probabilities, + 2^-8 of |out|, a bfloat16 result: both bounds are reached; and
//            over a whole row, where they average out, 6e-3 of it in norm ("out norm")
//   lse      1e-3 absolute, + 2^-22 of its size        float32 sums; measured in emulation: 1e-6
//   entropy  1e-3 absolute                             the same
//   mass     1e-4 absolute                             float32 sums of unrounded probabilities
//   run_max  1e-3 absolute (base 2), + 2^-21 of its size
//   top-k    weights 1e-4 absolute; keys whose exact probabilities differ by more than twice that must be in order, and
//            keys that tie exactly must be in list order
//   key_mass, pattern   1e-4 absolute, + per row 2^-21 of |lse|, which is read as float32
//   partial states      as out, lse, entropy and mass of the part's keys
#pragma once
#include <map>
#include <string>

#include "core/parallel.h"
#include "device/check/run.h"

namespace galvani::gpu::check {

struct Verdict {
  int64_t compared = 0, failed = 0;
  double worst = 0.0;  // largest error over its tolerance
  std::string where;   // of the first failure: place, expected, got, tolerance
};
// By check: "out", "lse", …, "untouched out", "twin out", "guards and inputs", "launch".
using Verdicts = std::map<std::string, Verdict>;

struct JudgeOptions {
  int64_t reference_macs = 4'000'000'000;  // above this, rows are sampled and the others only have to be written
  int64_t twin_macs = 400'000'000'000;     // above this, the twin is left out
};

Verdicts judge(const Scene& scene, const SceneRun& run, const JudgeOptions& options, ThreadPool& pool);
bool passed(const Verdicts& verdicts);

}  // namespace galvani::gpu::check
