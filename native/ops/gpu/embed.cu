// Gathers rows of the embedding table. One block per row; pure copying.
#include "ops/gpu/dev.h"
#include "ops/gpu/launchers.h"
#include "ops/gpu/refuse.h"

namespace galvani::gpu {
namespace {

constexpr int kThreads = 128;

DEV_KERNEL(kThreads, 8) embed_kernel(DEV_PARAM const EmbedParams p) {
  const int64_t row = dev::bid();
  const int32_t id = p.ids[row];
  const bool known = id >= 0 && id < p.vocab;
  if (!known && dev::tid() == 0) *p.bad = static_cast<int32_t>(row) + 1;  // of several, any one
  const bf16* from = p.table + static_cast<int64_t>(known ? id : 0) * p.width;
  constexpr uint32_t kNan = 0x7fff7fffu;
  for (int c = 8 * dev::tid(); c < p.width; c += 8 * kThreads)
    dev::st16(p.out + row * p.width + c, known ? dev::ld16(from + c) : dev::U4{kNan, kNan, kNan, kNan});
}

}  // namespace

int embed_launch(const EmbedParams& p, void* stream) {
  if (p.width <= 0 || p.width % 8 != 0) return refuse("width %d; expected a multiple of 8", p.width);
  return DEV_LAUNCH(embed_kernel, (dev::Grid{p.rows, 1}), kThreads, 0, stream, p);
}

}  // namespace galvani::gpu
