#include "ops/reduce_chunk.h"

namespace galvani {
GALVANI_DEFINE_ADD_TILE(add_tile_avx512)
}  // namespace galvani
