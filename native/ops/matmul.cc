#include "ops/matmul.h"

#include <algorithm>
#include <string>
#include <vector>

#include "core/status.h"

namespace galvani {
namespace {

void check(const MatmulArgs& args) {
  const Weight& w = args.w;
  if (w.dtype != DType::kF32 && w.dtype != DType::kBF16 && w.dtype != DType::kF16)
    throw Error(Code::kUnsupported, std::string("matmul: weights of dtype ") + dtype_name(w.dtype) + "; expected F32, BF16 or F16");
  GALVANI_CHECK(args.m >= 0 && w.rows >= 0 && w.columns >= 0);
}

constexpr int kLanes = 16;

float dot(const float* x, const float* w, int64_t k) {
  float lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= k; i += kLanes)
    for (int j = 0; j < kLanes; ++j) lanes[j] += x[i + j] * w[i + j];
  for (; i < k; ++i) lanes[i % kLanes] += x[i] * w[i];
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int j = 0; j < half; ++j) lanes[j] += lanes[j + half];
  return lanes[0];
}

}  // namespace

void matmul(const MatmulArgs& args, ThreadPool& pool) {
  check(args);
  const int64_t n = args.w.rows, k = args.w.columns, m = args.m;
  const int64_t columns_per_task = 16;
  pool.run((n + columns_per_task - 1) / columns_per_task, [&](int64_t task) {
    std::vector<float> row(k);
    const int64_t end = std::min(n, (task + 1) * columns_per_task);
    for (int64_t j = task * columns_per_task; j < end; ++j) {
      for (int64_t i = 0; i < k; ++i) row[i] = load_float(args.w.data, args.w.dtype, j * k + i);
      for (int64_t i = 0; i < m; ++i)
        args.y[i * args.ldy + j] = dot(args.x + i * args.ldx, row.data(), k) + (args.bias ? args.bias[j] : 0.0f);
    }
  });
}

void matmul_reference(const MatmulArgs& args) {
  check(args);
  const int64_t n = args.w.rows, k = args.w.columns;
  for (int64_t i = 0; i < args.m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      double sum = args.bias ? args.bias[j] : 0.0;
      for (int64_t c = 0; c < k; ++c)
        sum += static_cast<double>(args.x[i * args.ldx + c]) * load_float(args.w.data, args.w.dtype, j * k + c);
      args.y[i * args.ldy + j] = static_cast<float>(sum);
    }
}

}  // namespace galvani
