// Norm, RoPE, activations, embedding and sampling of the instruction set in use, each against its formula in float64.
#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>

#include "core/simd.h"
#include "core/status.h"
#include "core/testing.h"
#include "ops/activation.h"
#include "ops/embed.h"
#include "ops/norm.h"
#include "ops/rope.h"
#include "ops/sample.h"

namespace galvani {
namespace {

using testing::Random;

Code code_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  return Code::kInternal;
}

void norm(Random& random) {
  ThreadPool one(1), five(5);
  for (int64_t width : {1, 15, 16, 17, 100, 3584}) {
    const int64_t rows = 37, ld = width + 3;
    const std::vector<float> x = random.normals(rows * ld, 3.0f), weight = random.normals(width);
    std::vector<float> y(rows * ld, 777.0f), in_place = x, alone(width);
    rms_norm(y.data(), ld, x.data(), ld, weight.data(), rows, width, 1e-6f, one);
    rms_norm(in_place.data(), ld, in_place.data(), ld, weight.data(), rows, width, 1e-6f, five);
    bool close = true, same = true, outside = true;
    for (int64_t r = 0; r < rows; ++r) {
      double squares = 0.0;
      for (int64_t i = 0; i < width; ++i) squares += static_cast<double>(x[r * ld + i]) * x[r * ld + i];
      const double scale = 1.0 / std::sqrt(squares / static_cast<double>(width) + 1e-6);
      for (int64_t i = 0; i < width; ++i) {
        const double want = weight[i] * (x[r * ld + i] * scale);
        close &= std::fabs(y[r * ld + i] - want) <= 0x1.0p-24 * (width / 32.0 + 12.0) * std::fabs(want);
        same &= y[r * ld + i] == in_place[r * ld + i];
      }
      outside &= y[r * ld + width] == 777.0f;
      rms_norm(alone.data(), width, x.data() + r * ld, ld, weight.data(), 1, width, 1e-6f, five);
      same &= std::memcmp(alone.data(), &y[r * ld], width * sizeof(float)) == 0;
    }
    const std::string what = "rms_norm width " + std::to_string(width);
    EXPECT(close, what + " differs from its formula");
    EXPECT(same, what + ": in place, alone and in a batch must agree to the bit");
    EXPECT(outside, what + " wrote beyond its columns");
  }
}

void rope(Random& random) {
  ThreadPool pool(2);
  const int64_t rows = 23, heads = 3;
  for (int64_t dims : {8, 24, 80, 128}) {
    const int64_t half = dims / 2, ld = heads * dims + 5;
    std::vector<int32_t> positions;
    for (int64_t i = 0; i < 3 * rows; ++i) positions.push_back(static_cast<int32_t>(random.below(3000)));
    const int32_t section[3] = {static_cast<int32_t>(half / 4), static_cast<int32_t>(half / 4),
                                static_cast<int32_t>(half - 2 * (half / 4))};
    std::vector<float> cos(rows * half), sin(rows * half);
    mrope_table(cos.data(), sin.data(), positions.data(), rows, dims, section, 1e6f);
    bool table = true;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < half; ++i) {
        const int axis = i < section[0] ? 0 : i < section[0] + section[1] ? 1 : 2;
        const double angle =
            positions[axis * rows + r] * std::pow(1e6, -2.0 * static_cast<double>(i) / static_cast<double>(dims));
        // The angle itself is float32: half an ulp of it, and what its frequency's own roundings are worth.
        const double tolerance = 0x1.0p-24 * (2.0 + 8.0 * angle);
        table &= std::fabs(cos[r * half + i] - std::cos(angle)) <= tolerance;
        table &= std::fabs(sin[r * half + i] - std::sin(angle)) <= tolerance;
      }
    EXPECT(table, "mrope_table differs from its formula, D=" + std::to_string(dims));
    std::vector<float> x = random.normals(rows * ld);
    const std::vector<float> before = x;
    rope_apply(x.data(), ld, rows, heads, dims, cos.data(), sin.data(), pool);
    bool rotated = true, untouched = true;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t h = 0; h < heads; ++h)
        for (int64_t i = 0; i < half; ++i) {
          const int64_t at = r * ld + h * dims + i;
          const double a = before[at], b = before[at + half], c = cos[r * half + i], s = sin[r * half + i];
          const double size = 4.0 * 0x1.0p-24 * (std::fabs(a) + std::fabs(b));
          rotated &= std::fabs(x[at] - (a * c - b * s)) <= size && std::fabs(x[at + half] - (b * c + a * s)) <= size;
        }
      untouched &= std::equal(&x[r * ld + heads * dims], &x[r * ld] + ld, &before[r * ld + heads * dims]);
    }
    EXPECT(rotated, "rope_apply is not the rotation, D=" + std::to_string(dims));
    EXPECT(untouched, "rope_apply wrote between its rows");
  }
  const int64_t dims = 80;
  const std::vector<int32_t> hw = {0, 0, 3, 17, 40, 2};
  std::vector<float> cos(3 * 40), sin(3 * 40);
  vision_rope_table(cos.data(), sin.data(), hw.data(), 3, dims);
  bool good = true;
  for (int64_t r = 0; r < 3; ++r)
    for (int64_t i = 0; i < 40; ++i) {
      const double angle = hw[r * 2 + i / 20] * std::pow(1e4, -static_cast<double>(i % 20) / 20.0);
      good &=
          std::fabs(cos[r * 40 + i] - std::cos(angle)) < 1e-5 && std::fabs(sin[r * 40 + i] - std::sin(angle)) < 1e-5;
    }
  EXPECT(good, "vision_rope_table: rows turn the first quarter, columns the second");
  const int32_t wrong[3] = {1, 2, 3};
  EXPECT(code_of([&] { mrope_table(cos.data(), sin.data(), hw.data(), 1, 80, wrong, 1e6f); }) == Code::kBadArgument,
         "sections that do not sum to D/2 must be refused");
}

void activations(Random& random) {
  ThreadPool pool(2);
  for (int64_t width : {1, 7, 16, 33, 1000}) {
    const int64_t rows = 19, ld = width + 2;
    std::vector<float> gate = random.normals(rows * ld, 8.0f), up = random.normals(rows * ld), y(rows * ld, 777.0f);
    const float special[] = {0.0f, -0.0f, 88.0f, -88.0f, 500.0f, -500.0f, 1e30f, -1e30f, 1e-30f};
    for (size_t i = 0; i < std::size(special) && static_cast<int64_t>(i) < width; ++i) gate[i] = special[i];
    swiglu(y.data(), ld, gate.data(), ld, up.data(), ld, rows, width, pool);
    bool close = true, outside = true;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < width; ++i) {
        const double x = gate[r * ld + i], factor = up[r * ld + i], want = x / (1.0 + std::exp(-x)) * factor;
        const double ulps = 4.0 + (cpu_isa() == Isa::kPortable ? std::min(std::fabs(x), 90.0) : 0.0);
        const double tail = x < -80.0 ? std::fabs(x) * 0x1.0p-126 * std::fabs(factor) : 0.0;  // e^−x leaves float32
        close &= std::fabs(y[r * ld + i] - want) <= ulps * 0x1.0p-23 * std::fabs(want) + tail;
      }
      outside &= y[r * ld + width] == 777.0f;
    }
    EXPECT(close, "swiglu differs from its formula, width " + std::to_string(width));
    EXPECT(outside, "swiglu wrote beyond its columns");
    std::vector<float> in_place = gate;
    swiglu(in_place.data(), ld, in_place.data(), ld, up.data(), ld, rows, width, pool);
    bool same = true;
    for (int64_t r = 0; r < rows; ++r) same &= std::memcmp(&in_place[r * ld], &y[r * ld], width * sizeof(float)) == 0;
    EXPECT(same, "swiglu in place must equal swiglu");
    std::vector<float> g = gate;
    gelu(g.data(), rows * ld, pool);
    bool exact = true;
    for (size_t i = 0; i < g.size(); ++i) {
      const double x = gate[i];
      exact &= std::fabs(g[i] - 0.5 * x * std::erfc(-x * std::sqrt(0.5))) <= 2e-7 * std::max(std::fabs(x), 1e-30);
    }
    EXPECT(exact, "gelu differs from x · Φ(x)");
    std::vector<float> sum = gate;
    add_rows(sum.data(), ld, up.data(), ld, rows, width, pool);
    bool added = true;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < width; ++i) added &= sum[r * ld + i] == gate[r * ld + i] + up[r * ld + i];
    EXPECT(added && sum[width] == gate[width], "add_rows");
  }
}

void embedding(Random& random) {
  const int64_t vocab = 50, width = 37, ld = 40;
  const std::vector<int32_t> ids = {0, 49, 3, 3, 17};
  for (DType dtype : {DType::kF64, DType::kF32, DType::kF16, DType::kBF16}) {
    std::vector<unsigned char> bytes(vocab * width * dtype_size(dtype));
    for (int64_t i = 0; i < vocab * width; ++i) {
      const float value = random.normal();
      const double wide = value;
      const uint16_t half = dtype == DType::kF16 ? float_to_f16(value) : float_to_bf16(value);
      const void* from = dtype == DType::kF64   ? static_cast<const void*>(&wide)
                         : dtype == DType::kF32 ? static_cast<const void*>(&value)
                                                : &half;
      std::memcpy(&bytes[i * dtype_size(dtype)], from, dtype_size(dtype));
    }
    const Weight table{bytes.data(), dtype, vocab, width};
    std::vector<float> out(ids.size() * ld, 777.0f);
    embed_rows(out.data(), ld, ids.data(), static_cast<int64_t>(ids.size()), table);
    bool equal = true;
    for (size_t r = 0; r < ids.size(); ++r) {
      for (int64_t c = 0; c < width; ++c)
        equal &= out[r * ld + c] == load_float(bytes.data(), dtype, ids[r] * width + c);
      equal &= out[r * ld + width] == 777.0f;
    }
    EXPECT(equal, std::string("embed_rows, ") + dtype_name(dtype));
    for (int32_t bad : {-1, 50})
      EXPECT(code_of([&] { embed_rows(out.data(), ld, &bad, 1, table); }) == Code::kBadArgument,
             "an id outside the table");
  }
}

void sampling(Random& random) {
  // splitmix64 from state 0: published first outputs 0xe220a8397b1dcdaf, 0x6e789e6aa1b965f4.
  EXPECT(uniform_at(0, 0) == static_cast<double>(0xe220a8397b1dcdafull >> 11) * 0x1.0p-53, "uniform_at(0, 0)");
  EXPECT(uniform_at(0, 1) == static_cast<double>(0x6e789e6aa1b965f4ull >> 11) * 0x1.0p-53, "uniform_at(0, 1)");
  const std::vector<float> tie = {1.0f, 5.0f, 5.0f, -2.0f};
  EXPECT(argmax(tie.data(), 4) == 1 && sample(tie.data(), 4, {}, 0.9) == 1, "the lowest id wins a tie");

  const int64_t vocab = 200;
  const std::vector<float> p = random.normals(vocab, 3.0f), q = random.normals(vocab, 3.0f);
  long double p_sum = 0, q_sum = 0, kl = 0;
  for (int64_t i = 0; i < vocab; ++i) {
    p_sum += expl(p[i]);
    q_sum += expl(q[i]);
  }
  for (int64_t i = 0; i < vocab; ++i) kl += expl(p[i]) / p_sum * (p[i] - logl(p_sum) - q[i] + logl(q_sum));
  EXPECT(std::fabs(log_sum_exp(p.data(), vocab) - static_cast<double>(logl(p_sum))) < 1e-12, "log_sum_exp");
  EXPECT(std::fabs(kl_divergence(p.data(), q.data(), vocab) - static_cast<double>(kl)) < 1e-12, "kl_divergence");
  EXPECT(kl_divergence(p.data(), p.data(), vocab) == 0.0, "KL(p, p) = 0");
  std::vector<float> shifted = p;
  for (float& x : shifted) x += 1e4f;
  EXPECT(std::fabs(log_sum_exp(shifted.data(), vocab) - 1e4 - log_sum_exp(p.data(), vocab)) < 1e-2, "large logits");

  // Inverting the distribution on a fine grid of uniforms must give each token its probability.
  const auto shares = [&](const SampleOptions& options) {
    std::vector<double> out(vocab, 0.0);
    for (int i = 0; i < 20000; ++i) out[sample(p.data(), vocab, options, (i + 0.5) / 20000)] += 1.0 / 20000;
    return out;
  };
  std::vector<int32_t> order(vocab);
  for (int64_t i = 0; i < vocab; ++i) order[i] = static_cast<int32_t>(i);
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return p[a] > p[b]; });
  for (float temperature : {1.0f, 0.5f}) {
    for (const SampleOptions& options : {SampleOptions{temperature, 0, 1.0f}, SampleOptions{temperature, 5, 1.0f},
                                         SampleOptions{temperature, 0, 0.7f}, SampleOptions{temperature, 5, 0.5f}}) {
      double total = 0.0, mass = 0.0;
      std::vector<double> want(vocab, 0.0);
      const int64_t kept = options.top_k > 0 ? options.top_k : vocab;
      for (int64_t i = 0; i < kept; ++i) total += std::exp(static_cast<double>(p[order[i]]) / temperature);
      for (int64_t i = 0; i < kept && mass < options.top_p; ++i)
        mass += want[order[i]] = std::exp(static_cast<double>(p[order[i]]) / temperature) / total;
      const std::vector<double> got = shares(options);
      double worst = 0.0;
      for (int64_t i = 0; i < vocab; ++i) worst = std::max(worst, std::fabs(got[i] - want[i] / mass));
      EXPECT(worst < 1.1 / 20000, "sample: shares differ from the distribution by " + std::to_string(worst));
    }
  }
  EXPECT(code_of([&] {
           sample(p.data(), vocab, {1.0f, 0, 0.0f}, 0.5);
         }) == Code::kBadArgument,
         "top_p 0 must be refused");
  EXPECT(code_of([&] {
           sample(p.data(), vocab, {1.0f, 0, 1.0f}, 1.0);
         }) == Code::kBadArgument,
         "uniform 1 must be refused");
  EXPECT(code_of([&] {
           sample(p.data(), vocab, {-1.0f, 0, 1.0f}, 0.5);
         }) == Code::kBadArgument,
         "a negative temperature");
}

}  // namespace
}  // namespace galvani

int main() {
  using namespace galvani;
  testing::Random random(3);
  std::printf("small ops, %s\n", isa_name(cpu_isa()));
  norm(random);
  rope(random);
  activations(random);
  embedding(random);
  sampling(random);
  return testing::report();
}
