// The attention entries of the backend table by their definition, float64 on host memory. It shows that the bench's
// scenes and comparisons agree with the contract of attn_types.h, and, with a fault planted, that the bench sees it.
#pragma once
#include "device/backend.h"

namespace galvani::gpu::check {

// Mistakes a kernel could make.
enum class HostFault {
  kNone,
  kOutScaled,  // 2 % off
  kNoHeadScale,
  kNoHeadAdd,
  kHeadMapModulo,  // KV head = head mod KV heads
  kFirstIgnored,   // reads a run from its page's first slot
  kLastKeyMissed,
  kLowExclusive,
  kHighExclusive,
  kRowClassIgnored,
  kHeadClassIgnored,
  kProgramIgnored,
  kGammaIgnored,
  kBetaBase2,  // not multiplied by log2 e
  kPostRenormalises,
  kPostInMass,
  kBlockedFaint,  // beta −100 instead of removed
  kEmptyNan,
  kScoresRounded,  // to bfloat16
  kLseBase2,
  kEntropyNoRescale,  // t ← a·t, without d·l, when the maximum moves
  kMassUnnormalised,
  kMassNextSegment,
  kCaptureIgnored,
  kRowSkipped,
  kGapWritten,  // beside an output row
  kGuardWritten,
  kInputWritten,
  kRacy,  // other bits on the next launch
  kCombineDropsPart,
  kCombineNoRescale,
  kCombineNoHeadEdits,
  kEmptyCombineSkipped,
  kPartSegmentFromRow,  // part_segment's m is the row's, its l the segment's own
  kRunMaxShifted,       // run_order ignored
  kTopAscending,
  kTopLaterTie,
  kTopUnnormalised,
  kTopOneRun,  // looks only through the run with the largest maximum
  kKeyMassAccumulated,
  kKeyMassOfAll,        // rows that are not captured too
  kPatternFirstColumn,  // column0 ignored
  kLaunchFails,
  kEnd,
};
const char* host_fault_name(HostFault fault);

const Backend* host_backend();
void set_host_fault(HostFault fault);

}  // namespace galvani::gpu::check
