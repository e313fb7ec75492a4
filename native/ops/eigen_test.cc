// Eigenvalues of matrices most of whose spectrum is rounding dust: what a Gram matrix of an update of low rank becomes.
#include "ops/eigen.h"

#include <cmath>
#include <string>
#include <vector>

#include "core/simd.h"
#include "core/testing.h"

namespace galvani {
namespace {

// Tridiagonal, falling from 1 to 2^-60: at its end every entry is dust beside the norm and none beside its neighbours.
std::vector<double> graded(int64_t k, testing::Random& random) {
  std::vector<double> a(static_cast<size_t>(k * k), 0.0);
  auto share = [&] { return static_cast<double>(random.bits() >> 11) * 0x1p-53; };
  for (int64_t i = 0; i < k; ++i) {
    const double size = std::exp2(-60.0 * static_cast<double>(i) / static_cast<double>(k));
    a[static_cast<size_t>(i * k + i)] = size * (share() + 0.1);
    if (i + 1 < k) a[static_cast<size_t>(i * k + i + 1)] = size * share();
  }
  return a;
}

void graded_matrices(testing::Random& random, ThreadPool& pool) {
  for (const int64_t k : {40, 200, 300}) {
    for (int draw = 0; draw < 20; ++draw) {
      std::vector<double> a = graded(k, random);
      double trace = 0, square = 0;
      for (int64_t i = 0; i < k; ++i) {
        trace += a[static_cast<size_t>(i * k + i)];
        for (int64_t j = i; j < k; ++j)
          square += (i == j ? 1 : 2) * a[static_cast<size_t>(i * k + j)] * a[static_cast<size_t>(i * k + j)];
      }
      double sum = 0, squares = 0;
      try {
        for (const double value : symmetric_eigen(a, k, 0, pool).values) {
          sum += value;
          squares += value * value;
        }
      } catch (const std::exception& error) {
        EXPECT(false, "k = " + std::to_string(k) + ": " + error.what());
        continue;
      }
      EXPECT(std::fabs(sum - trace) < 1e-13 * trace, "trace, k = " + std::to_string(k));
      EXPECT(std::fabs(squares - square) < 1e-13 * square, "sum of squares, k = " + std::to_string(k));
    }
  }
}

}  // namespace
}  // namespace galvani

int main() {
  using namespace galvani;
  testing::Random random(5);
  ThreadPool pool(2);
  std::printf("eigen, %s\n", isa_name(cpu_isa()));
  graded_matrices(random, pool);
  return testing::report();
}
