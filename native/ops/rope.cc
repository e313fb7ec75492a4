#include "ops/rope.h"

#include <cmath>
#include <string>
#include <vector>

#include "core/status.h"
#include "ops/row_blocks.h"

namespace galvani {
namespace {

// theta^(−2i/width) for i < width/2, with transformers' float32 roundings: 1 / theta ** (2i / width).
std::vector<float> inverse_frequencies(int64_t width, float theta) {
  std::vector<float> inverse(width / 2);
  for (int64_t i = 0; i < width / 2; ++i)
    inverse[i] = 1.0f / std::pow(theta, static_cast<float>(2 * i) / static_cast<float>(width));
  return inverse;
}

}  // namespace

void rope_apply(float* x, int64_t ldx, int64_t rows, int64_t heads, int64_t head_dim, const float* cos,
                const float* sin, ThreadPool& pool) {
  const int64_t half = head_dim / 2;
  for_row_blocks(pool, rows, heads * head_dim, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* c = cos + row * half;
      const float* s = sin + row * half;
      for (int64_t head = 0; head < heads; ++head) {
        float* a = x + row * ldx + head * head_dim;
        float* b = a + half;
        for (int64_t i = 0; i < half; ++i) {
          const float first = a[i] * c[i] - b[i] * s[i];
          const float second = b[i] * c[i] + a[i] * s[i];
          a[i] = first;
          b[i] = second;
        }
      }
    }
  });
}

void mrope_table(float* cos, float* sin, const int32_t* positions, int64_t rows, int64_t head_dim,
                 const int32_t section[3], float theta) {
  const int64_t half = head_dim / 2;
  if (section[0] < 0 || section[1] < 0 || section[2] < 0 || section[0] + section[1] + section[2] != half)
    throw Error(Code::kBadArgument, "mrope_table: sections " + std::to_string(section[0]) + ", " +
                                        std::to_string(section[1]) + ", " + std::to_string(section[2]) +
                                        " do not sum to half the head dimension, " + std::to_string(half));
  const std::vector<float> inverse = inverse_frequencies(head_dim, theta);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < half; ++i) {
      const int64_t axis = i < section[0] ? 0 : i < section[0] + section[1] ? 1 : 2;
      const float angle = static_cast<float>(positions[axis * rows + row]) * inverse[i];
      cos[row * half + i] = std::cos(angle);
      sin[row * half + i] = std::sin(angle);
    }
}

void vision_rope_table(float* cos, float* sin, const int32_t* position_hw, int64_t rows, int64_t head_dim) {
  const int64_t half = head_dim / 2, quarter = half / 2;
  if (head_dim % 4 != 0)
    throw Error(Code::kBadArgument,
                "vision_rope_table: head dimension " + std::to_string(head_dim) + " is not a multiple of 4");
  const std::vector<float> inverse = inverse_frequencies(half, 10000.0f);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t axis = 0; axis < 2; ++axis)
      for (int64_t i = 0; i < quarter; ++i) {
        const float angle = static_cast<float>(position_hw[row * 2 + axis]) * inverse[i];
        cos[row * half + axis * quarter + i] = std::cos(angle);
        sin[row * half + axis * quarter + i] = std::sin(angle);
      }
}

}  // namespace galvani
