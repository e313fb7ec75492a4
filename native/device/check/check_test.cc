// The bench itself: with attention by the definition every scene passes; with a mistake planted, the check that is
// there for it fails. A mistake nobody notices is a failure of this test.
#include <cstdlib>
#include <iterator>

#include "core/testing.h"
#include "device/check/host_backend.h"
#include "device/check/judge.h"

namespace galvani::gpu::check {
namespace {

using F = HostFault;

// The fault and the check that has to see it.
constexpr struct {
  F fault;
  const char* seen_by;
} kFaults[] = {
    {F::kOutScaled, "out"},
    {F::kOutScaled, "out norm"},
    {F::kOutScaled, "twin out"},
    {F::kNoHeadScale, "out"},
    {F::kNoHeadAdd, "out"},
    {F::kHeadMapModulo, "out"},
    {F::kHeadMapModulo, "twin lse"},
    {F::kFirstIgnored, "out"},
    {F::kLastKeyMissed, "lse"},
    {F::kLowExclusive, "lse"},
    {F::kLowExclusive, "twin lse"},
    {F::kHighExclusive, "lse"},
    {F::kRowClassIgnored, "lse"},
    {F::kHeadClassIgnored, "lse"},
    {F::kProgramIgnored, "lse"},
    {F::kGammaIgnored, "lse"},
    {F::kBetaBase2, "twin lse"},
    {F::kPostRenormalises, "out"},
    {F::kPostInMass, "mass"},
    {F::kBlockedFaint, "lse"},
    {F::kBlockedFaint, "run_max"},
    {F::kEmptyNan, "out"},
    {F::kScoresRounded, "lse"},
    {F::kScoresRounded, "run_max"},
    {F::kScoresRounded, "pattern"},
    {F::kLseBase2, "lse"},
    {F::kEntropyNoRescale, "entropy"},
    {F::kEntropyNoRescale, "partial entropy"},
    {F::kEntropyNoRescale, "twin entropy"},
    {F::kMassUnnormalised, "mass"},
    {F::kMassNextSegment, "mass"},
    {F::kMassNextSegment, "partial mass"},
    {F::kMassNextSegment, "twin mass"},
    {F::kCaptureIgnored, "written lse"},
    {F::kCaptureIgnored, "written mass"},
    {F::kRowSkipped, "written out"},
    {F::kRowSkipped, "partial state"},
    {F::kGapWritten, "written out"},
    {F::kGuardWritten, "guards and inputs"},
    {F::kInputWritten, "guards and inputs"},
    {F::kRacy, "guards and inputs"},
    {F::kCombineDropsPart, "out"},
    {F::kCombineNoRescale, "out"},
    {F::kCombineNoHeadEdits, "out"},
    {F::kEmptyCombineSkipped, "written out"},
    {F::kPartSegmentFromRow, "partial mass"},
    {F::kRunMaxShifted, "written run_max"},
    {F::kRunMaxShifted, "run_max"},
    {F::kTopAscending, "top-k order"},
    {F::kTopLaterTie, "top-k ties"},
    {F::kTopUnnormalised, "top-k weight"},
    {F::kTopUnnormalised, "twin top-k"},
    {F::kPostRenormalises, "twin out"},
    {F::kLowExclusive, "twin out"},
    {F::kNoHeadAdd, "twin out"},
    {F::kTopOneRun, "top-k"},
    {F::kKeyMassAccumulated, "key_mass"},
    {F::kKeyMassOfAll, "key_mass"},
    {F::kPatternFirstColumn, "written pattern"},
    {F::kLaunchFails, "launch"},
};

Verdicts check(uint64_t seed, const SceneOptions& options, ThreadPool& pool) {
  const Scene scene = random_scene(seed, options);
  return judge(scene, run_scene(*host_backend(), scene, true), {}, pool);
}

void correct(ThreadPool& pool) {
  for (int kernel = -1; kernel < kAttnKernels; ++kernel) {
    SceneOptions options;
    options.wgmma = true;
    options.scores = 40'000;
    if (kernel >= 0) options.kernel = static_cast<AttnKernel>(kernel);
    if (options.kernel == AttnKernel::kWgmma) options.head_dims = {128};
    for (uint64_t seed = 0; seed < (kernel < 0 ? 60 : 15); ++seed)
      for (const auto& [name, verdict] : check(seed, options, pool))
        EXPECT(verdict.failed == 0, "seed " + std::to_string(seed) + " kernel " + std::to_string(kernel) + " " + name +
                                        ": " + verdict.where);
  }
}

void faults(ThreadPool& pool) {
  bool planted[static_cast<int>(F::kEnd)] = {true};
  SceneOptions options;
  options.scores = 15'000;
  for (const auto& [fault, seen_by] : kFaults) {
    planted[static_cast<int>(fault)] = true;
    set_host_fault(fault);
    int64_t seen = 0;
    for (uint64_t seed = 0; seed < 150 && seen == 0; ++seed) {
      const Verdicts verdicts = check(seed, options, pool);
      const auto found = verdicts.find(seen_by);
      seen += found == verdicts.end() ? 0 : found->second.failed;
    }
    EXPECT(seen > 0, std::string(host_fault_name(fault)) + " goes unnoticed by " + seen_by);
  }
  set_host_fault(F::kNone);
  for (int i = 0; i < static_cast<int>(F::kEnd); ++i)
    EXPECT(planted[i], std::string(host_fault_name(static_cast<F>(i))) + " has no check that must see it");
}

}  // namespace
}  // namespace galvani::gpu::check

int main() {
  galvani::ThreadPool pool;
  galvani::gpu::check::correct(pool);
  galvani::gpu::check::faults(pool);
  return galvani::testing::report();
}
