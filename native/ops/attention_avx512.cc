#include "ops/attention_kernel.h"

namespace galvani {

int attention_width_avx512() { return kWidth; }
void attention_tile_avx512(const AttentionTile& tile) { attention_tile(tile); }

}  // namespace galvani
