// The whole test framework of the native executables: EXPECT, a seeded generator, "N passed, N failed".
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace galvani::testing {

struct Tally {
  int64_t passed = 0, failed = 0;
};
inline Tally& tally() {
  static Tally instance;
  return instance;
}

// Counts; prints the first failures only, a broken kernel would print millions.
inline bool expect(bool ok, const char* file, int line, const std::string& what) {
  if (ok) {
    ++tally().passed;
  } else if (++tally().failed <= 20) {
    std::printf("%s:%d: %s\n", file, line, what.c_str());
  }
  return ok;
}
#define EXPECT(condition, what) ::galvani::testing::expect(condition, __FILE__, __LINE__, what)

inline int report() {
  std::printf("%lld passed, %lld failed\n", static_cast<long long>(tally().passed),
              static_cast<long long>(tally().failed));
  return tally().failed == 0 && tally().passed > 0 ? 0 : 1;
}

// Deterministic on every platform, unlike <random>'s distributions.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t bits() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1.0p-53; }
  int64_t below(int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint64_t>(n)); }
  // Roughly normal: the sum of twelve uniforms.
  float normal() {
    double sum = -6.0;
    for (int i = 0; i < 12; ++i) sum += uniform();
    return static_cast<float>(sum);
  }
  std::vector<float> normals(int64_t count, float scale = 1.0f) {
    std::vector<float> out(static_cast<size_t>(count));
    for (float& value : out) value = scale * normal();
    return out;
  }

 private:
  uint64_t state_;
};

}  // namespace galvani::testing
