#include "ops/matmul_kernel.h"

namespace galvani {

void matmul_block_avx2(const MatmulBlock& block) { matmul_block(block); }

}  // namespace galvani
