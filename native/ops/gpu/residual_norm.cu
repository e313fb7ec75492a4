// Residual addition, its edits and captures, and RMSNorm, in one pass over memory. One block per row; the row waits in
// shared memory, as the bfloat16 that are stored: what is captured, edited back in or normed is what a later kernel
// would read, so that patching a row with its own capture changes nothing. Accumulation float32.
#include "ops/gpu/dev.h"
#include "ops/gpu/launchers.h"
#include "ops/gpu/refuse.h"
#include "ops/gpu/rows.h"

namespace galvani::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxWidth = 64 * 1024;

DEV_KERNEL(kThreads, 4) residual_norm_kernel(DEV_PARAM const ResidualNormParams p) {
  DEV_SHARED(shared);
  float* partial = reinterpret_cast<float*>(shared);  // one per warp
  unsigned char* kept = shared + 4 * kThreads / 32;   // the row
  const int64_t row = dev::bid(), at = row * p.width;
  const int edit_index = p.row_edit ? p.row_edit[row] : -1, capture = p.row_capture ? p.row_capture[row] : -1;
  const bool edited = edit_index >= 0;
  const ResidualEdit edit = edited ? p.edits[edit_index] : ResidualEdit{nullptr, nullptr, 1.0f, 0};
  const bool changed = p.delta || edited;

  float squares = 0.0f;
  for (int c = 8 * dev::tid(); c < p.width; c += 8 * kThreads) {
    dev::U4 stored = dev::ld16(p.residual + at + c);
    float x[8], y[8];
    widen8(stored, x);
    if (p.delta) {
      widen8(dev::ld16(p.delta + at + c), y);
      DEV_UNROLL
      for (int i = 0; i < 8; ++i) x[i] += y[i];
    }
    if (edited) {
      if (edit.patch) load8(edit.patch + c, x);
      DEV_UNROLL
      for (int i = 0; i < 8; ++i) x[i] *= edit.scale;
      if (edit.add) {
        load8(edit.add + c, y);
        DEV_UNROLL
        for (int i = 0; i < 8; ++i) x[i] += y[i];
      }
    }
    if (changed) {
      stored = narrow8(x);
      widen8(stored, x);
      dev::st16(p.residual + at + c, stored);
    }
    if (capture >= 0) store8(p.captured + static_cast<int64_t>(capture) * p.width + c, x);
    DEV_UNROLL
    for (int i = 0; i < 8; ++i) squares = dev::fma(x[i], x[i], squares);
    dev::st16(kept + 2 * c, stored);
  }
  if (!p.normed) return;
  const float mean = block_sum<kThreads>(squares, partial) / static_cast<float>(p.width);
  const float scale = 1.0f / sqrtf(mean + p.eps);
  for (int c = 8 * dev::tid(); c < p.width; c += 8 * kThreads) {  // each thread reads what it wrote
    float x[8], w[8];
    widen8(dev::ld16(kept + 2 * c), x);
    load8(p.weight + c, w);
    DEV_UNROLL
    for (int i = 0; i < 8; ++i) x[i] = w[i] * (x[i] * scale);
    dev::st16(p.normed + at + c, narrow8(x));
  }
}

}  // namespace

int residual_norm_launch(const ResidualNormParams& p, void* stream) {
  if (p.width <= 0 || p.width % 8 != 0 || p.width > kMaxWidth)
    return refuse("width %d; expected a multiple of 8 up to %d", p.width, kMaxWidth);
  if (p.normed && !p.weight) return refuse("a norm without its weight");
  const size_t shared = 4 * kThreads / 32 + 2 * static_cast<size_t>(p.width);
  return DEV_LAUNCH(residual_norm_kernel, (dev::Grid{p.rows, 1}), kThreads, shared, stream, p);
}

}  // namespace galvani::gpu
