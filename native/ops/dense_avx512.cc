#include "ops/dense_loops.h"

namespace galvani {
const DenseKernels kDenseAvx512 = {gram_tile<8, 3>, dot_axpy, dot, axpy};
}  // namespace galvani
