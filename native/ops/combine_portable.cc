#include "ops/combine_loops.h"

namespace galvani {
const CombineKernels kCombinePortable = GALVANI_COMBINE_TABLE;
}  // namespace galvani
