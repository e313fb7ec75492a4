// The fragment maps of tile.h as pictures, and against matrix products computed the plain way.
#include "ops/gpu/tile.h"

#include <cstdio>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "core/testing.h"

namespace galvani::gpu {
namespace {

using testing::Random;

// "0 0 1 1 …": which lane holds each element of a 16×8 accumulator.
std::string accumulator_picture() {
  int owner[16][8];
  std::memset(owner, 0xff, sizeof owner);
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i) {
      int& cell = owner[fragment_row(lane, i)][fragment_column(lane, i)];
      EXPECT(cell == -1, "two fragments at one place");
      cell = lane;
    }
  std::string out;
  for (auto& row : owner) {
    for (int cell : row) out += (cell < 10 ? " " : "") + std::to_string(cell) + " ";
    out.back() = '\n';
  }
  return out;
}

constexpr const char* kAccumulator =
    " 0  0  1  1  2  2  3  3\n"
    " 4  4  5  5  6  6  7  7\n"
    " 8  8  9  9 10 10 11 11\n"
    "12 12 13 13 14 14 15 15\n"
    "16 16 17 17 18 18 19 19\n"
    "20 20 21 21 22 22 23 23\n"
    "24 24 25 25 26 26 27 27\n"
    "28 28 29 29 30 30 31 31\n";

// Chunks keep inside their row, are 16-byte aligned and distinct, and the eight rows that one ldmatrix phase reads fall
// into eight different 16-byte columns of the 128-byte bank line.
template <int D>
void layout() {
  using Layout = TileLayout<D>;
  const std::string name = "TileLayout<" + std::to_string(D) + ">";
  std::set<int> seen;
  for (int row = 0; row < 64; ++row)
    for (int c = 0; c < Layout::kChunks; ++c) {
      const int at = Layout::offset(row, c);
      EXPECT(at % 16 == 0 && at >= row * Layout::kRowBytes && at + 16 <= (row + 1) * Layout::kRowBytes, name);
      EXPECT(seen.insert(at).second, name + ": two chunks at one place");
    }
  for (int row = 0; row < 8; ++row)
    for (int first = 0; first < 2; ++first)
      for (int rows = 0; rows + row < 64; rows += 8)
        for (int chunks = 0; chunks + first < Layout::kChunks; chunks += 2)
          EXPECT(Layout::moved(Layout::offset(row, first), rows, chunks) == Layout::offset(row + rows, first + chunks),
                 name + ": moved");
  for (int row0 = 0; row0 < 64; row0 += 8)
    for (int c = 0; c < Layout::kChunks; ++c) {
      std::set<int> columns;
      for (int row = row0; row < row0 + 8; ++row) columns.insert(Layout::offset(row, c) % 128);
      EXPECT(columns.size() == 8, name + ": bank conflict");
    }
}

struct Matrices {
  const bf16* a;   // (16, D): rows × k
  const bf16* b;   // (64, D): n × k, then k × n for the transposed product
  float* ab;       // (16, 64) = a·bᵀ over k = D
  float* wb;       // (16, D) = w·b over the 64 rows of b, w = bf16(ab)
};

// Both products of attention with one warp: the operands come through a_offset, b_offset and bt_offset, and the accumulators of
// the first are the A operand of the second.
template <int D>
DEV_KERNEL(32, 1)
products(const DEV_PARAM Matrices p) {
  DEV_SHARED(shared);
  const int lane = dev::tid();
  unsigned char* a_tile = shared;
  unsigned char* b_tile = shared + 16 * TileLayout<D>::kRowBytes;
  for (int i = lane; i < 16 * D / 8; i += 32)
    dev::cp16(a_tile + TileLayout<D>::offset(i / (D / 8), i % (D / 8)), p.a + i * 8, true);
  for (int i = lane; i < 64 * D / 8; i += 32)
    dev::cp16(b_tile + TileLayout<D>::offset(i / (D / 8), i % (D / 8)), p.b + i * 8, true);
  dev::cp_commit();
  dev::cp_wait<0>();
  dev::sync();
  float s[8][4] = {}, o[D / 8][4] = {};
  for (int k = 0; k < D / 16; ++k) {
    uint32_t a[4];
    dev::ldsm4(a, a_tile + TileLayout<D>::moved(a_offset<D>(lane), 0, 2 * k));
    for (int n = 0; n < 4; ++n) {
      uint32_t b[4];
      dev::ldsm4(b, b_tile + TileLayout<D>::moved(b_offset<D>(lane), 16 * n, 2 * k));
      dev::mma(s[2 * n], a, b[0], b[1]);
      dev::mma(s[2 * n + 1], a, b[2], b[3]);
    }
  }
  for (int k = 0; k < 4; ++k) {
    const uint32_t a[4] = {dev::pack(s[2 * k][0], s[2 * k][1]), dev::pack(s[2 * k][2], s[2 * k][3]),
                           dev::pack(s[2 * k + 1][0], s[2 * k + 1][1]), dev::pack(s[2 * k + 1][2], s[2 * k + 1][3])};
    for (int n = 0; n < D / 16; ++n) {
      uint32_t b[4];
      dev::ldsm4t(b, b_tile + TileLayout<D>::moved(bt_offset<D>(lane), 16 * k, 2 * n));
      dev::mma(o[2 * n], a, b[0], b[1]);
      dev::mma(o[2 * n + 1], a, b[2], b[3]);
    }
  }
  for (int i = 0; i < 4; ++i) {
    const int row = fragment_row(lane, i), column = fragment_column(lane, i);
    for (int n = 0; n < 8; ++n) p.ab[row * 64 + n * 8 + column] = s[n][i];
    for (int n = 0; n < D / 8; ++n) p.wb[row * D + n * 8 + column] = o[n][i];
  }
}

template <int D>
void multiplies(Random& random) {
  std::vector<bf16> a(16 * D), b(64 * D);
  // Small integers: every product and sum is exact in float32, and so is the comparison.
  for (auto* m : {&a, &b})
    for (bf16& e : *m) e = dev::to_bf16(static_cast<float>(random.below(5)) - 2.0f);
  std::vector<float> ab(16 * 64, NAN), wb(16 * D, NAN);
  const Matrices p{a.data(), b.data(), ab.data(), wb.data()};
  const int code = DEV_LAUNCH(products<D>, (dev::Grid{1, 1}), 32, size_t{80} * TileLayout<D>::kRowBytes, nullptr, p);
  EXPECT(code == 0, emu::error());
  std::vector<float> w(16 * 64);
  for (int r = 0; r < 16; ++r)
    for (int n = 0; n < 64; ++n) {
      float sum = 0.0f;
      for (int k = 0; k < D; ++k) sum += dev::to_float(a[r * D + k]) * dev::to_float(b[n * D + k]);
      EXPECT(ab[r * 64 + n] == sum, "a·bᵀ, D = " + std::to_string(D));
      w[r * 64 + n] = dev::to_float(dev::to_bf16(sum));
    }
  for (int r = 0; r < 16; ++r)
    for (int c = 0; c < D; ++c) {
      float sum = 0.0f;
      for (int n = 0; n < 64; ++n) sum += w[r * 64 + n] * dev::to_float(b[n * D + c]);
      EXPECT(wb[r * D + c] == sum, "w·b, D = " + std::to_string(D));
    }
}

struct QuadParams {
  float* sum;
  float* most;
};
DEV_KERNEL(32, 1)
quads(const DEV_PARAM QuadParams p) {
  const int lane = dev::tid();
  p.sum[lane] = quad_sum(static_cast<float>(lane));
  p.most[lane] = quad_max(static_cast<float>(lane * (lane & 1 ? 1 : -1)));
}

void quad_reductions() {
  std::vector<float> sum(32), most(32);
  const QuadParams p{sum.data(), most.data()};
  EXPECT(DEV_LAUNCH(quads, (dev::Grid{1, 1}), 32, 0, nullptr, p) == 0, emu::error());
  for (int lane = 0; lane < 32; ++lane) {
    const int first = lane & ~3;
    EXPECT(sum[lane] == static_cast<float>(4 * first + 6), "quad_sum");
    EXPECT(most[lane] == static_cast<float>(first + 3), "quad_max");
  }
}

}  // namespace
}  // namespace galvani::gpu

int main() {
  using namespace galvani::gpu;
  galvani::testing::Random random(11);
  const std::string picture = accumulator_picture();
  std::printf("lane that holds each element of a 16×8 accumulator:\n%s", picture.c_str());
  EXPECT(picture == std::string(kAccumulator) + kAccumulator, "the accumulator's picture");
  layout<64>();
  layout<80>();
  layout<96>();
  layout<128>();
  for (uint64_t schedule = 0; schedule < 4; ++schedule) {
    emu::set_schedule(schedule);
    multiplies<64>(random);
    multiplies<80>(random);
    multiplies<96>(random);
    multiplies<128>(random);
    quad_reductions();
  }
  return galvani::testing::report();
}
