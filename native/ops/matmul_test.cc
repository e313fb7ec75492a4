// Matmul of the instruction set in use (GALVANI_ISA) against its specification and against itself.
#include "ops/matmul.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "core/simd.h"
#include "core/testing.h"
#include "ops/matmul_block.h"

namespace galvani {
namespace {

using testing::Random;

// Weights that end exactly where the next page faults, so that one byte read past the end is a crash; `skew` bytes of
// misalignment come from the length alone.
class GuardedWeight {
 public:
  GuardedWeight(Random& random, DType dtype, int64_t rows, int64_t columns) {
    const int64_t bytes = rows * columns * dtype_size(dtype), page = sysconf(_SC_PAGESIZE);
    mapped_ = (bytes + page - 1) / page * page + page;
    base_ =
        static_cast<unsigned char*>(mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED || mprotect(base_ + mapped_ - page, page, PROT_NONE) != 0) std::abort();
    unsigned char* data = base_ + mapped_ - page - bytes;
    for (int64_t i = 0; i < rows * columns; ++i) {
      const float value = random.normal();
      if (dtype == DType::kF32) std::memcpy(data + i * 4, &value, 4);
      const uint16_t half = dtype == DType::kBF16 ? float_to_bf16(value) : float_to_f16(value);
      if (dtype != DType::kF32) std::memcpy(data + i * 2, &half, 2);
    }
    weight_ = {data, dtype, rows, columns};
  }
  ~GuardedWeight() { munmap(base_, mapped_); }
  GuardedWeight(const GuardedWeight&) = delete;
  GuardedWeight& operator=(const GuardedWeight&) = delete;
  const Weight& operator*() const { return weight_; }

 private:
  unsigned char* base_;
  int64_t mapped_;
  Weight weight_;
};

std::string name(DType dtype, int64_t m, int64_t n, int64_t k) {
  return std::string(dtype_name(dtype)) + " M=" + std::to_string(m) + " N=" + std::to_string(n) +
         " K=" + std::to_string(k);
}

// |float32 sum − exact| ≤ (longest chain of roundings) · 2^−24 · Σ|x·w|; the narrowest lanes (4) give the longest
// chain.
bool within_bound(const MatmulArgs& args, const float* want, int64_t i, int64_t j) {
  const int64_t k = args.w.columns;
  double magnitude = args.bias ? std::fabs(args.bias[j]) : 0.0;
  for (int64_t c = 0; c < k; ++c)
    magnitude +=
        std::fabs(static_cast<double>(args.x[i * args.ldx + c]) * load_float(args.w.data, args.w.dtype, j * k + c));
  const double roundings = std::min(k, kMatmulChunk) / 4.0 + 8.0 + k / static_cast<double>(kMatmulChunk) + 2.0;
  return std::fabs(static_cast<double>(args.y[i * args.ldy + j]) - want[i * args.ldy + j]) <=
         roundings * 0x1.0p-24 * magnitude;
}

void against_reference(Random& random, ThreadPool& pool, DType dtype, int64_t m, int64_t n, int64_t k, bool bias) {
  const GuardedWeight weight(random, dtype, n, k);
  const int64_t ldx = k + 3, ldy = n + 2;
  const std::vector<float> x = random.normals(m * ldx), b = random.normals(n);
  std::vector<float> y(m * ldy, 777.0f), want(m * ldy, 777.0f);
  MatmulArgs args{y.data(), ldy, x.data(), ldx, *weight, bias ? b.data() : nullptr, m};
  matmul(args, pool);
  MatmulArgs reference = args;
  reference.y = want.data();
  matmul_reference(reference);
  bool good = true, untouched = true;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) good &= within_bound(args, want.data(), i, j);
    untouched &= y[i * ldy + n] == 777.0f && y[i * ldy + n + 1] == 777.0f;
  }
  EXPECT(good, "differs from the reference: " + name(dtype, m, n, k));
  EXPECT(untouched, "wrote beyond its columns: " + name(dtype, m, n, k));
}

void shapes(Random& random, ThreadPool& pool) {
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (int64_t k = 0; k <= 129; ++k) against_reference(random, pool, dtype, 1 + k % 9, 1 + k % 11, k, k % 2 == 0);
    for (int64_t m : {1, 2, 3, 4, 5, 6, 7, 12, 13, 97, 200})
      for (int64_t n : {1, 2, 7, 8, 9, 33}) against_reference(random, pool, dtype, m, n, 70, true);
    for (int64_t k : {1023, 1024, 1025, 2048, 2065, 3584}) {
      against_reference(random, pool, dtype, 1, 37, k, true);
      against_reference(random, pool, dtype, 3, 37, k, false);
      against_reference(random, pool, dtype, 150, 9, k, true);  // too large to pack at once
    }
  }
}

// A row's bits: alone, in any batch, on any number of threads, whatever columns surround it, however W is aligned.
void same_bits(Random& random, DType dtype, int64_t n, int64_t k) {
  constexpr int64_t kRows = 210;
  const GuardedWeight weight(random, dtype, n, k);
  const std::vector<float> x = random.normals(kRows * k), bias = random.normals(n);
  ThreadPool one(1), two(2), five(5);
  std::vector<float> want(kRows * n);
  for (int64_t i = 0; i < kRows; ++i)
    matmul({want.data() + i * n, n, x.data() + i * k, k, *weight, bias.data(), 1}, one);
  std::vector<int64_t> sizes;
  for (int64_t m = 1; m <= 40; ++m) sizes.push_back(m);
  for (int64_t m : {95, 96, 97, 130, 210}) sizes.push_back(m);
  for (int64_t m : sizes)
    for (ThreadPool* pool : {&one, &two, &five}) {
      const int64_t start = m % 3 == 0 ? kRows - m : 0;
      std::vector<float> y(m * n);
      matmul({y.data(), n, x.data() + start * k, k, *weight, bias.data(), m}, *pool);
      EXPECT(std::memcmp(y.data(), want.data() + start * n, y.size() * sizeof(float)) == 0,
             "bits depend on the batch or the threads: " + name(dtype, m, n, k) + ", " +
                 std::to_string(pool->threads()) + " threads");
    }
  const int64_t size = dtype_size(dtype), columns = n - n / 3;
  std::vector<unsigned char> moved(columns * k * size + 1);
  std::memcpy(moved.data() + 1, static_cast<const unsigned char*>((*weight).data) + n / 3 * k * size,
              columns * k * size);
  std::vector<float> part(5 * columns);
  matmul({part.data(), columns, x.data(), k, {moved.data() + 1, dtype, columns, k}, bias.data() + n / 3, 5}, two);
  bool equal = true;
  for (int64_t i = 0; i < 5; ++i)
    equal &= std::memcmp(part.data() + i * columns, want.data() + i * n + n / 3, columns * sizeof(float)) == 0;
  EXPECT(equal, "bits depend on the columns around or on alignment: " + name(dtype, 5, columns, k));
}

}  // namespace
}  // namespace galvani

int main() {
  using namespace galvani;
  testing::Random random(1);
  ThreadPool pool(2);
  std::printf("matmul, %s\n", isa_name(cpu_isa()));
  shapes(random, pool);
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    same_bits(random, dtype, 70, 1091);
    same_bits(random, dtype, 64, 128);
  }
  return testing::report();
}
