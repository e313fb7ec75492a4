#include "ops/matmul_kernel.h"

namespace galvani {

void matmul_block_avx512(const MatmulBlock& block) { matmul_block(block); }

}  // namespace galvani
