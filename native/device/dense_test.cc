// The GPU's dense kernels through the backend's table, each against its formula in float64 and against the CPU's op.
//
//   dense_test                      emulated, under several schedules
//   dense_test path/to/backend.so   on that device
//
// Tolerances: one rounding to bfloat16 (8 bits: 2⁻⁸ of the value) and the float32 sum it is made of.
#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>

#include "core/dtype.h"
#include "core/testing.h"
#include "device/array.h"
#include "device/load.h"
#include "ops/activation.h"
#include "ops/gpu/emu.h"
#include "ops/matmul.h"
#include "ops/norm.h"
#include "ops/rope.h"
#include "ops/sample.h"

namespace galvani {
namespace {

using gpu::bf16;
using testing::Random;
constexpr double kHalfUlp = 0x1.0p-8, kFloat = 0x1.0p-24;

float widen(bf16 value) { return bf16_to_float(value.bits); }
std::vector<float> widen(const std::vector<bf16>& values) {
  std::vector<float> out(values.size());
  std::transform(values.begin(), values.end(), out.begin(), [](bf16 v) { return widen(v); });
  return out;
}
std::vector<bf16> narrow(const std::vector<float>& values) {
  std::vector<bf16> out(values.size());
  std::transform(values.begin(), values.end(), out.begin(), [](float v) { return bf16{float_to_bf16(v)}; });
  return out;
}
std::vector<bf16> halves(Random& random, int64_t count, float scale = 1.0f) {
  return narrow(random.normals(count, scale));
}
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}
bool near_half(float got, double want, double slack = 0.0) {
  return std::fabs(got - want) <= kHalfUlp * 1.01 * std::fabs(want) + slack;
}

struct Device {
  const gpu::Backend& table;
  bool run(int code, const std::string& what) const {
    const bool launched = code == 0;
    EXPECT(launched, what + ": " + table.last_error());
    const bool finished = table.sync(nullptr) == 0;
    EXPECT(finished, what + ": " + table.last_error());
    return launched && finished;
  }
  void refused(int code, const char* message) const {
    EXPECT(code != 0 && std::strstr(table.last_error(), message),
           std::string("expected a refusal with '") + message + "', got '" + table.last_error() + "'");
  }
  template <class T>
  DeviceArray<T> of(const std::vector<T>& values) const {
    return DeviceArray<T>(table, values);
  }
};

void residual_norm(const Device& device, Random& random, int width) {
  const int rows = 7;
  const std::string what = "residual_norm width " + std::to_string(width);
  const std::vector<bf16> residual = halves(random, rows * width, 3.0f), delta = halves(random, rows * width);
  const std::vector<float> weight = random.normals(width), patch = random.normals(width), add = random.normals(width);
  const auto d_delta = device.of(delta);
  const auto d_weight = device.of(weight), d_patch = device.of(patch), d_add = device.of(add);
  // Rows 0 and 4: as they are; 1: scaled; 2: patched; 3: added to; 5: patched, scaled and added to; 6: zeroed.
  const auto edits = device.of(std::vector<gpu::ResidualEdit>{{nullptr, nullptr, -1.5f, 0},
                                                              {d_patch.data(), nullptr, 1.0f, 0},
                                                              {nullptr, d_add.data(), 1.0f, 0},
                                                              {d_patch.data(), d_add.data(), 0.25f, 0},
                                                              {nullptr, nullptr, 0.0f, 0}});
  const auto row_edit = device.of(std::vector<int32_t>{-1, 0, 1, 2, -1, 3, 4});
  const auto row_capture = device.of(std::vector<int32_t>{2, -1, 0, 1, -1, 3, -1});
  auto d_residual = device.of(residual);
  DeviceArray<bf16> normed(device.table, rows * width);
  DeviceArray<float> captured(device.table, 5 * width);

  gpu::ResidualNormParams p{};
  p.rows = rows;
  p.width = width;
  p.residual = d_residual.data();
  p.delta = d_delta.data();
  p.weight = d_weight.data();
  p.normed = normed.data();
  p.eps = 1e-6f;
  p.edit_count = 5;
  p.edits = edits.data();
  p.row_edit = row_edit.data();
  p.row_capture = row_capture.data();
  p.captured = captured.data();
  if (!device.run(device.table.residual_norm(&p, nullptr), what)) return;

  const std::vector<bf16> stored = d_residual.read(), norm = normed.read();
  const std::vector<float> kept = captured.read();
  bool sums = true, norms = true, captures = true;
  std::vector<float> cpu(width), row(width);
  ThreadPool pool(1);
  for (int r = 0; r < rows; ++r) {
    double squares = 0.0;
    for (int c = 0; c < width; ++c) {
      const double sum = static_cast<double>(widen(residual[r * width + c])) + widen(delta[r * width + c]);
      const double want[] = {sum, -1.5 * sum, patch[c], sum + add[c], sum, 0.25 * patch[c] + add[c], 0.0};
      // float32 sums of numbers that nearly cancel: an ulp of the terms
      sums &= near_half(widen(stored[r * width + c]), want[r], 4 * kFloat * 16);
      row[c] = widen(stored[r * width + c]);
      squares += static_cast<double>(row[c]) * row[c];
    }
    rms_norm(cpu.data(), width, row.data(), width, weight.data(), 1, width, 1e-6f, pool);
    for (int c = 0; c < width; ++c) {
      const double want = weight[c] * (row[c] / std::sqrt(squares / width + 1e-6));
      norms &= near_half(widen(norm[r * width + c]), want) && near_half(widen(norm[r * width + c]), cpu[c]);
    }
    constexpr int kCapture[] = {2, -1, 0, 1, -1, 3, -1};
    if (kCapture[r] >= 0)
      captures &= std::equal(row.begin(), row.end(), kept.begin() + static_cast<int64_t>(kCapture[r]) * width);
  }
  EXPECT(sums, what + ": residual");
  EXPECT(norms, what + ": norm differs from its formula");
  EXPECT(captures, what + ": what is captured is what is stored");
  EXPECT(std::all_of(kept.begin() + 4 * width, kept.end(), [](float x) { return std::isnan(x); }) ||
             std::strcmp(device.table.name, "emulated") != 0,
         what + ": rows nobody captured stay untouched");

  // Patching every captured row with its own capture, in another batch order, changes nothing.
  const std::vector<int> source = {5, 0, 2};
  std::vector<bf16> noise = halves(random, 3 * width), again;
  auto d_again = device.of(noise);
  DeviceArray<bf16> normed_again(device.table, 3 * width);
  const auto own = device.of(std::vector<gpu::ResidualEdit>{{captured.data() + 3 * width, nullptr, 1.0f, 0},
                                                            {captured.data() + 2 * width, nullptr, 1.0f, 0},
                                                            {captured.data(), nullptr, 1.0f, 0}});
  const auto order = device.of(std::vector<int32_t>{0, 1, 2});
  gpu::ResidualNormParams q = p;
  q.rows = 3;
  q.residual = d_again.data();
  q.delta = nullptr;
  q.normed = normed_again.data();
  q.edits = own.data();
  q.row_edit = order.data();
  q.row_capture = nullptr;
  if (!device.run(device.table.residual_norm(&q, nullptr), what)) return;
  again = d_again.read();
  const std::vector<bf16> norm_again = normed_again.read();
  bool identity = true;
  for (int i = 0; i < 3; ++i) {
    identity &= std::memcmp(&again[i * width], &stored[source[i] * width], 2 * width) == 0;
    identity &= std::memcmp(&norm_again[i * width], &norm[source[i] * width], 2 * width) == 0;
  }
  EXPECT(identity, what + ": a row patched with its own capture must keep its bits, in any batch");

  q.normed = nullptr;
  q.weight = nullptr;
  q.row_edit = nullptr;
  if (device.run(device.table.residual_norm(&q, nullptr), what))
    EXPECT(same_bits(d_again.read(), again), what + ": nothing to do");
  q.width = 12;
  device.refused(device.table.residual_norm(&q, nullptr), "residual_norm: width 12");
}

void swiglu(const Device& device, Random& random, int rows, int width) {
  std::vector<float> values = random.normals(static_cast<int64_t>(rows) * 2 * width, 6.0f);
  const float special[] = {0.0f, -0.0f, 88.0f, -88.0f, 500.0f, -500.0f, 1e30f, -1e30f};
  std::copy(std::begin(special), std::end(special), values.begin());
  const std::vector<bf16> gate_up = narrow(values);
  const auto in = device.of(gate_up);
  DeviceArray<bf16> out(device.table, static_cast<int64_t>(rows) * width);
  const gpu::SwigluParams p{rows, width, in.data(), out.data()};
  const std::string what = "swiglu width " + std::to_string(width);
  if (!device.run(device.table.swiglu(&p, nullptr), what)) return;
  const std::vector<bf16> got = out.read();
  std::vector<float> cpu(width), gate(width), up(width);
  ThreadPool pool(1);
  bool close = true;
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < width; ++c) {
      gate[c] = widen(gate_up[static_cast<int64_t>(2 * r) * width + c]);
      up[c] = widen(gate_up[static_cast<int64_t>(2 * r + 1) * width + c]);
    }
    galvani::swiglu(cpu.data(), width, gate.data(), width, up.data(), width, 1, width, pool);
    for (int c = 0; c < width; ++c) {
      const double x = gate[c], want = x / (1.0 + std::exp(-x)) * up[c];
      // ex2 takes x · log2(e) rounded to float32: |x| ulps; below e^−80 float32 ends.
      const double slack = std::fabs(want) * (4 + std::fabs(x)) * kFloat + std::fabs(x * up[c]) * 1e-35;
      const float y = widen(got[static_cast<int64_t>(r) * width + c]);
      close &= near_half(y, want, slack) && near_half(y, cpu[c], 2 * slack);
    }
  }
  EXPECT(close, what + " differs from its formula");
}

void embed(const Device& device, Random& random) {
  const int vocab = 37, width = 72;
  const std::vector<bf16> table = halves(random, vocab * width);
  const std::vector<int32_t> ids = {0, 36, 5, 5, -1, 12, 37};
  const int rows = static_cast<int>(ids.size());
  const auto d_table = device.of(table);
  const auto d_ids = device.of(ids);
  DeviceArray<bf16> out(device.table, rows * width);
  auto bad = device.of(std::vector<int32_t>{0});
  gpu::EmbedParams p{4, width, vocab, d_table.data(), d_ids.data(), out.data(), bad.data()};
  if (!device.run(device.table.embed(&p, nullptr), "embed")) return;
  EXPECT(bad.read()[0] == 0, "embed: known ids are not bad");
  p.rows = rows;
  if (!device.run(device.table.embed(&p, nullptr), "embed")) return;
  const std::vector<bf16> got = out.read();
  bool equal = true;
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < width; ++c) {
      const bool known = ids[r] >= 0 && ids[r] < vocab;
      equal &= known ? got[r * width + c].bits == table[ids[r] * width + c].bits : std::isnan(widen(got[r * width + c]));
    }
  EXPECT(equal, "embed: rows of the table, NaN for unknown ids");
  EXPECT(bad.read()[0] == 5 || bad.read()[0] == 7, "embed: names a bad position");
}

// The GEMM in one call, on copies of padded operands.
std::vector<float> product(const Device& device, const std::vector<bf16>& in, const std::vector<bf16>& weight,
                           const float* bias, int m, int n, int k, bool half_out, bool own) {
  const int in_stride = k + 8, out_stride = n + 16;
  std::vector<bf16> padded(static_cast<size_t>(m) * in_stride, bf16{0x7fc0});  // what lies between rows is nobody's
  for (int i = 0; i < m; ++i) std::copy_n(&in[static_cast<size_t>(i) * k], k, &padded[static_cast<size_t>(i) * in_stride]);
  const auto d_in = device.of(padded), d_weight = device.of(weight);
  const auto d_bias = device.of(bias ? std::vector<float>(bias, bias + n) : std::vector<float>(1));
  auto out = device.of(std::vector<bf16>(half_out ? static_cast<size_t>(m) * out_stride : 1, bf16{0x4242}));
  auto out_f32 = device.of(std::vector<float>(half_out ? 1 : static_cast<size_t>(m) * out_stride, 42.0f));
  const gpu::GemmParams p{m, n, k, d_in.data(), d_weight.data(), bias ? d_bias.data() : nullptr,
                          half_out ? out.data() : nullptr, half_out ? nullptr : out_f32.data(), in_stride, out_stride};
  const std::string what = "gemm " + std::to_string(m) + "×" + std::to_string(n) + "×" + std::to_string(k);
  if (!device.run((own ? device.table.gemm_own : device.table.gemm)(&p, nullptr), what)) return {};
  const std::vector<float> all = half_out ? widen(out.read()) : out_f32.read();
  const float untouched = half_out ? widen(bf16{0x4242}) : 42.0f;
  std::vector<float> result;
  bool between = true;
  for (int i = 0; i < m; ++i) {
    const auto row = all.begin() + static_cast<int64_t>(i) * out_stride;
    result.insert(result.end(), row, row + n);
    between &= std::all_of(row + n, row + out_stride, [&](float x) { return x == untouched; });
  }
  EXPECT(between, what + " wrote between its rows");
  return result;
}

void gemm(const Device& device, Random& random, int m, int n, int k) {
  const std::vector<bf16> in = halves(random, static_cast<int64_t>(m) * k), weight = halves(random, static_cast<int64_t>(n) * k);
  const std::vector<float> bias = random.normals(n, 4.0f), wide = widen(in);
  std::vector<float> cpu(static_cast<size_t>(m) * n);
  ThreadPool pool(1);
  matmul({cpu.data(), n, wide.data(), k, Weight{weight.data(), DType::kBF16, n, k}, bias.data(), m}, pool);
  for (const bool own : {true, false}) {
    if (!own && device.table.gemm == device.table.gemm_own) continue;  // there is no other
    for (const bool half_out : {false, true}) {
      const std::vector<float> got = product(device, in, weight, bias.data(), m, n, k, half_out, own);
      const std::vector<float> plain = product(device, in, weight, nullptr, m, n, k, half_out, own);
      if (got.empty() || plain.empty()) return;
      bool close = true, twin = true;
      for (int i = 0; i < m; ++i)
        for (int j = 0; j < n; ++j) {
          double sum = 0.0, size = std::fabs(bias[j]);
          for (int c = 0; c < k; ++c) {
            const double term = static_cast<double>(wide[static_cast<size_t>(i) * k + c]) * widen(weight[static_cast<size_t>(j) * k + c]);
            sum += term;
            size += std::fabs(term);
          }
          const size_t at = static_cast<size_t>(i) * n + j;
          const double slack = kFloat * size * (k / 8 + 4);
          const double half = half_out ? kHalfUlp * 1.01 : 0.0;
          close &= std::fabs(got[at] - (sum + bias[j])) <= half * std::fabs(sum + bias[j]) + slack;
          close &= std::fabs(plain[at] - sum) <= half * std::fabs(sum) + slack;
          twin &= std::fabs(got[at] - cpu[at]) <= half * std::fabs(cpu[at]) + 2 * slack;
        }
      const std::string what = std::string(own ? "gemm_own " : "gemm ") + std::to_string(m) + "×" + std::to_string(n) +
                               "×" + std::to_string(k) + (half_out ? " bfloat16" : " float32");
      EXPECT(close, what + " differs from float64");
      EXPECT(twin, what + " differs from the CPU's matmul");
      if (!own) continue;
      const int row = static_cast<int>(random.below(m));
      const std::vector<bf16> one(&in[static_cast<size_t>(row) * k], &in[static_cast<size_t>(row) * k] + k);
      const std::vector<float> alone = product(device, one, weight, bias.data(), 1, n, k, half_out, true);
      EXPECT(alone.size() == static_cast<size_t>(n) && std::memcmp(alone.data(), &got[static_cast<size_t>(row) * n], 4 * n) == 0,
             what + ": a row alone must equal the row in its batch, to the bit");
    }
  }
}

void gemm_refusals(const Device& device) {
  const auto memory = device.of(std::vector<bf16>(64));
  gpu::GemmParams p{1, 8, 12, memory.data(), memory.data(), nullptr, const_cast<bf16*>(memory.data()), nullptr, 16, 8};
  device.refused(device.table.gemm_own(&p, nullptr), "n 8, k 12; expected multiples of 8");
  p.k = 8;
  p.out = nullptr;
  device.refused(device.table.gemm_own(&p, nullptr), "expected one output");
}

void kv_append(const Device& device, Random& random, int heads, int kv_heads, int dim) {
  const std::string what = "kv_append D=" + std::to_string(dim);
  // Slots: a page written backwards from its first slot on, one continued from slot 5, tokens that are not kept.
  const int pages = 4, tokens = 16, columns = (heads + 2 * kv_heads) * dim, half = dim / 2;
  std::vector<int32_t> slot = {64 * 2 + 6, 64 * 2 + 5, 64 * 2 + 4, 64 * 2 + 3, 64 * 2 + 2, 64 * 2 + 1, 64 * 2,
                               64 * 1 + 5, 64 * 1 + 6, 64 * 1 + 7, -1,         64 * 3 + 63, -1,       0,
                               1,          2};
  const std::vector<bf16> qkv = halves(random, static_cast<int64_t>(tokens) * (columns + 8));
  const std::vector<float> bias = random.normals(columns);
  std::vector<int32_t> positions;
  for (int i = 0; i < 3 * tokens; ++i) positions.push_back(static_cast<int32_t>(random.below(2000)));
  const int32_t section[3] = {half / 4, half / 4, half - 2 * (half / 4)};
  std::vector<float> cosine(tokens * half), sine(tokens * half);
  mrope_table(cosine.data(), sine.data(), positions.data(), tokens, dim, section, 1e6f);
  const int64_t arena = static_cast<int64_t>(pages) * kv_heads * gpu::kPageKeys * dim;
  const bf16 old{0x4040};
  const auto d_qkv = device.of(qkv);
  const auto d_bias = device.of(bias), d_cosine = device.of(cosine), d_sine = device.of(sine);
  const auto d_slot = device.of(slot);

  for (const bool plain : {false, true}) {  // plain: neither bias nor rotation
    auto k = device.of(std::vector<bf16>(arena, old)), v = device.of(std::vector<bf16>(arena, old));
    DeviceArray<bf16> q(device.table, static_cast<int64_t>(tokens) * (heads * dim + 8));
    gpu::KvAppendParams p{heads, kv_heads, dim, tokens, d_qkv.data(), plain ? nullptr : d_bias.data(),
                          plain ? nullptr : d_cosine.data(), plain ? nullptr : d_sine.data(), q.data(), k.data(),
                          v.data(), columns + 8, heads * dim + 8, d_slot.data()};
    if (!device.run(device.table.kv_append(&p, nullptr), what)) return;

    // The whole arena as it should be: old content, cleared pages (0 and 2), then the tokens.
    std::vector<double> want_k(arena, widen(old)), want_v = want_k;
    for (const int page : {0, 2})
      for (int64_t i = 0; i < arena / pages; ++i)
        want_k[page * (arena / pages) + i] = want_v[page * (arena / pages) + i] = 0.0;
    std::vector<float> row(columns);
    std::vector<double> turned(columns);
    const std::vector<bf16> got_q = q.read();
    ThreadPool pool(1);
    bool queries = true, twin = true;
    for (int t = 0; t < tokens; ++t) {
      for (int i = 0; i < columns; ++i) row[i] = widen(qkv[static_cast<int64_t>(t) * (columns + 8) + i]) + (plain ? 0.0f : bias[i]);
      std::copy(row.begin(), row.end(), turned.begin());
      for (int h = 0; !plain && h < heads + kv_heads; ++h)
        for (int i = 0; i < half; ++i) {
          const double a = row[h * dim + i], b = row[h * dim + half + i], c = cosine[t * half + i], s = sine[t * half + i];
          turned[h * dim + i] = a * c - b * s;
          turned[h * dim + half + i] = b * c + a * s;
        }
      if (!plain) rope_apply(row.data(), columns, 1, heads + kv_heads, dim, &cosine[t * half], &sine[t * half], pool);
      for (int i = 0; i < heads * dim; ++i) {
        const float got = widen(got_q[static_cast<int64_t>(t) * (heads * dim + 8) + i]);
        queries &= near_half(got, turned[i], 8 * kFloat * 4);
        twin &= near_half(got, row[i], 8 * kFloat * 4);
      }
      if (slot[t] < 0) continue;
      for (int g = 0; g < kv_heads; ++g)
        for (int i = 0; i < dim; ++i) {
          const int64_t to =
              ((static_cast<int64_t>(slot[t] / gpu::kPageKeys) * kv_heads + g) * gpu::kPageKeys + slot[t] % gpu::kPageKeys) * dim + i;
          want_k[to] = turned[(heads + g) * dim + i];
          want_v[to] = turned[(heads + kv_heads + g) * dim + i];
        }
    }
    const std::vector<bf16> got_k = k.read(), got_v = v.read();
    bool keys = true, values = true;
    for (int64_t i = 0; i < arena; ++i) {
      keys &= near_half(widen(got_k[i]), want_k[i], 8 * kFloat * 4);
      values &= near_half(widen(got_v[i]), want_v[i], 8 * kFloat * 4);
    }
    EXPECT(queries, what + ": q");
    EXPECT(twin, what + ": q differs from rope_apply");
    EXPECT(keys, what + ": k in its slots, fresh pages cleared, everything else untouched");
    EXPECT(values, what + ": v in its slots, fresh pages cleared, everything else untouched");
  }
}

// ---- logits ---------------------------------------------------------------------------------------------------------

struct Reduced {
  std::vector<float> lse, max_logprob, scores;
  std::vector<int32_t> argmax, sampled;
};

Reduced reduce(const Device& device, const std::vector<float>& logits, int vocab, const std::vector<int32_t>& ids,
               const SampleOptions& options, const std::vector<float>& uniform) {
  const int rows = static_cast<int>(uniform.size()), scored = static_cast<int>(ids.size()) / rows;
  const auto d_logits = device.of(logits), d_uniform = device.of(uniform);
  const auto d_ids = device.of(ids);
  DeviceArray<float> lse(device.table, rows), best(device.table, rows), scores(device.table, rows * scored);
  DeviceArray<int32_t> argmax(device.table, rows), sampled(device.table, rows);
  const gpu::LogitsParams p{rows, vocab, d_logits.data(), lse.data(), argmax.data(), best.data(), scored,
                            options.top_k, d_ids.data(), scores.data(), options.temperature, options.top_p,
                            d_uniform.data(), sampled.data()};
  if (!device.run(device.table.logits(&p, nullptr), "logits")) return {};
  return {lse.read(), best.read(), scores.read(), argmax.read(), sampled.read()};
}

void scores(const Device& device, Random& random, int vocab) {
  const int rows = 5, scored = 3;
  const std::string what = "logits of " + std::to_string(vocab);
  std::vector<float> logits = random.normals(rows * vocab, 4.0f);
  for (int i = 0; i < vocab; ++i) logits[vocab + i] += 3000.0f;        // far from zero
  for (int i = 0; i < vocab; ++i) logits[2 * vocab + i] = -1.25f;      // all equal
  logits[3 * vocab + vocab / 2] = -std::numeric_limits<float>::infinity();
  for (int i = 0; i < vocab; ++i) logits[4 * vocab + i] = std::round(logits[4 * vocab + i]);  // ties
  std::vector<int32_t> ids(rows * scored);
  for (int32_t& id : ids) id = static_cast<int32_t>(random.below(vocab));
  ids[1] = -1;
  ids[5] = vocab;
  const std::vector<float> uniform(rows, 0.5f);
  const Reduced got = reduce(device, logits, vocab, ids, {}, uniform);
  if (got.lse.empty()) return;
  for (int r = 0; r < rows; ++r) {
    const float* row = &logits[static_cast<size_t>(r) * vocab];
    const double lse = log_sum_exp(row, vocab);
    const int32_t best = argmax(row, vocab);
    const double slack = 1e-5 + 2 * kFloat * std::fabs(lse);
    const auto near = [&](float x, double y) { return x == y || (std::isnan(x) && std::isnan(y)) || std::fabs(x - y) <= slack; };
    EXPECT(near(got.lse[r], lse), what + ": lse of row " + std::to_string(r));
    EXPECT(got.argmax[r] == best && got.sampled[r] == best, what + ": argmax of row " + std::to_string(r));
    EXPECT(near(got.max_logprob[r], row[best] - lse), what + ": its log-probability");
    for (int i = 0; i < scored; ++i) {
      const int32_t id = ids[r * scored + i];
      const float score = got.scores[r * scored + i];
      EXPECT(id < 0 || id >= vocab ? std::isnan(score) : near(score, row[id] - lse),
             what + ": score of id " + std::to_string(id));
    }
    const std::vector<float> one(row, row + vocab);
    const std::vector<int32_t> own(&ids[r * scored], &ids[r * scored] + scored);
    const Reduced alone = reduce(device, one, vocab, own, {}, {0.5f});
    EXPECT(std::memcmp(&alone.lse[0], &got.lse[r], 4) == 0, what + ": a row alone keeps its bits");
  }
}

// Whether a draw is the CPU's up to float32 rounding: its share of the running sum touches u, its place is in the set.
bool may_draw(const float* row, int vocab, const SampleOptions& options, double u, int32_t token) {
  constexpr double kSlack = 3e-6;
  std::vector<int32_t> order(vocab);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return row[a] > row[b]; });
  if (options.top_k > 0 && options.top_k < vocab) order.resize(options.top_k);
  std::vector<double> ends = {0.0};  // of the running sum
  for (const int32_t id : order)
    ends.push_back(ends.back() + std::exp((static_cast<double>(row[id]) - row[order[0]]) / options.temperature));
  const size_t at = std::find(order.begin(), order.end(), token) - order.begin();
  const double all = ends.back();
  for (size_t kept = 1; at < order.size() && kept <= order.size(); ++kept) {
    // Is this where top_p may cut?
    if (options.top_p < 1.0f
            ? ends[kept - 1] > (options.top_p + kSlack) * all || ends[kept] < (options.top_p - kSlack) * all
            : kept < order.size())
      continue;
    const double target = u * ends[kept];
    if (at < kept && ends[at] <= target + kSlack * all && ends[at + 1] >= target - kSlack * all) return true;
  }
  return false;
}

void draws(const Device& device, Random& random, int vocab, bool ties, const SampleOptions& options, int64_t& exact,
           int64_t& total) {
  const int rows = 12;
  std::vector<float> logits = random.normals(rows * vocab, 3.0f), uniform(rows);
  if (ties)
    for (float& x : logits) x = std::round(x);
  for (float& u : uniform) u = std::min(static_cast<float>(random.uniform()), 0x1.fffffep-1f);
  uniform[0] = 0.0f;
  uniform[1] = 0x1.fffffep-1f;
  const Reduced got = reduce(device, logits, vocab, std::vector<int32_t>(rows), options, uniform);
  if (got.sampled.empty()) return;
  for (int r = 0; r < rows; ++r) {
    const float* row = &logits[static_cast<size_t>(r) * vocab];
    const int32_t want = sample(row, vocab, options, uniform[r]);
    EXPECT(may_draw(row, vocab, options, uniform[r], got.sampled[r]),
           "sampled " + std::to_string(got.sampled[r]) + " instead of " + std::to_string(want) + " of " +
               std::to_string(vocab) + (ties ? " with ties" : "") + ", u " + std::to_string(uniform[r]) + ", top_k " +
               std::to_string(options.top_k) + ", top_p " + std::to_string(options.top_p));
    exact += got.sampled[r] == want;
    ++total;
  }
}

void logits(const Device& device, Random& random) {
  for (int vocab : {1, 7, 512, 1500}) scores(device, random, vocab);
  int64_t exact = 0, total = 0;
  for (const SampleOptions& options :
       {SampleOptions{1.0f, 0, 1.0f}, SampleOptions{0.6f, 5, 1.0f}, SampleOptions{1.3f, 0, 0.7f}, SampleOptions{2.0f, 40, 0.9f}})
    for (int vocab : {3, 700})
      for (bool ties : {false, true}) draws(device, random, vocab, ties, options, exact, total);
  EXPECT(exact >= total - total / 40, "draws on the CPU's token: " + std::to_string(exact) + " of " + std::to_string(total));

  // NaN: the sums say so, the choice ignores it.
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Reduced got = reduce(device, {1.0f, nan, 3.0f, 2.0f}, 4, {3}, {1.0f, 0, 1.0f}, {0.1f});
  EXPECT(!got.lse.empty() && std::isnan(got.lse[0]) && got.argmax[0] == 2 && got.sampled[0] == 2, "a NaN logit");
  const auto memory = device.of(std::vector<float>(8));
  DeviceArray<int32_t> sampled(device.table, 1);
  gpu::LogitsParams p{};
  p.rows = 1;
  p.vocab = 8;
  p.logits = memory.data();
  p.sampled = sampled.data();
  p.temperature = 1.0f;
  p.top_p = 0.0f;
  device.refused(device.table.logits(&p, nullptr), "top_p 0 (in (0, 1])");
}

void everything(const Device& device, uint64_t seed) {
  Random random(seed);
  for (int width : {8, 264, 3584}) residual_norm(device, random, width);
  swiglu(device, random, 3, 8);
  swiglu(device, random, 5, 2104);
  embed(device, random);
  const int shapes[][3] = {{1, 8, 8},    {16, 128, 32}, {3, 136, 200}, {17, 72, 40},
                           {128, 128, 64}, {129, 136, 96}, {40, 264, 136}};
  for (const auto& [m, n, k] : shapes) gemm(device, random, m, n, k);
  gemm_refusals(device);
  for (int dim : {64, 80, 96, 128}) kv_append(device, random, 4, 2, dim);
  kv_append(device, random, 7, 1, 128);
  logits(device, random);
}

}  // namespace
}  // namespace galvani

int main(int count, char** arguments) {
  using namespace galvani;
  if (count > 1) {
    const GpuStatus status = probe_gpu(arguments[1]);
    std::printf("%s\n", status.reason.c_str());
    if (!status.backend) return 1;
    everything({*status.backend}, 1);
    return testing::report();
  }
  const Device device{*gpu::galvani_backend(gpu::kBackendAbi)};
  for (uint64_t schedule = 0; schedule < 3; ++schedule) {
    gpu::emu::set_schedule(schedule);
    everything(device, 100 + schedule);
  }
  return testing::report();
}
