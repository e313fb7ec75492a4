#include "ops/combine_loops.h"

namespace galvani {
const CombineKernels kCombineAvx512 = GALVANI_COMBINE_TABLE;
}  // namespace galvani
