#include "ops/reduce_chunk.h"

namespace galvani {
GALVANI_DEFINE_ADD_TILE(add_tile_avx2)
}  // namespace galvani
