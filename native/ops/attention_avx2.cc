#include "ops/attention_kernel.h"

namespace galvani {

int attention_width_avx2() { return kWidth; }
void attention_tile_avx2(const AttentionTile& tile) { attention_tile(tile); }

}  // namespace galvani
