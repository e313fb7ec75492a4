// out = silu(gate) · up, eight elements per thread. float32 inside.
#include "ops/gpu/dev.h"
#include "ops/gpu/launchers.h"
#include "ops/gpu/refuse.h"
#include "ops/gpu/rows.h"

namespace galvani::gpu {
namespace {

constexpr int kThreads = 256;

// Grid: (blocks of a row, rows).
DEV_KERNEL(kThreads, 4) swiglu_kernel(DEV_PARAM const SwigluParams p) {
  const int c = 8 * (dev::bid() * kThreads + dev::tid());
  if (c >= p.width) return;
  const int64_t row = dev::bid_y();
  const bf16* gate_up = p.gate_up + row * 2 * p.width + c;
  float gate[8], up[8];
  widen8(dev::ld16(gate_up), gate);
  widen8(dev::ld16(gate_up + p.width), up);
  DEV_UNROLL
  for (int i = 0; i < 8; ++i) gate[i] = gate[i] / (1.0f + dev::ex2(-kLog2e * gate[i])) * up[i];
  dev::st16(p.out + row * p.width + c, narrow8(gate));
}

}  // namespace

int swiglu_launch(const SwigluParams& p, void* stream) {
  if (p.width <= 0 || p.width % 8 != 0) return refuse("width %d; expected a multiple of 8", p.width);
  const int64_t blocks = (p.width / 8 + kThreads - 1) / kThreads;
  for (int64_t row = 0; row < p.rows; row += kMaxGridY) {
    SwigluParams part = p;
    part.gate_up += row * 2 * p.width;
    part.out += row * p.width;
    const int64_t rows = p.rows - row < kMaxGridY ? p.rows - row : kMaxGridY;
    if (const int code = DEV_LAUNCH(swiglu_kernel, (dev::Grid{blocks, rows}), kThreads, 0, stream, part)) return code;
  }
  return 0;
}

}  // namespace galvani::gpu
