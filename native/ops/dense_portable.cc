#include "ops/dense_loops.h"

namespace galvani {
const DenseKernels kDensePortable = {gram_tile<2, 1>, dot_axpy, dot, axpy};
}  // namespace galvani
