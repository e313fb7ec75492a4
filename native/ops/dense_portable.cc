#include "ops/dense_loops.h"

namespace galvani {
const DenseKernels kDensePortable = {gram_tile, dot_axpy, dot, axpy, dot_float, axpy_float, update};
}  // namespace galvani
