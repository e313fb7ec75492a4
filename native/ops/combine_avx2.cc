#include "ops/combine_loops.h"

namespace galvani {
const CombineKernels kCombineAvx2 = GALVANI_COMBINE_TABLE;
}  // namespace galvani
