#include "ops/dense_loops.h"

namespace galvani {
const DenseKernels kDenseAvx2 = {gram_tile<4, 1>, dot_axpy, dot, axpy};
}  // namespace galvani
