#include "ops/gpu/emu.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace galvani::gpu::emu {
namespace {

// ---- fibers ---------------------------------------------------------------------------------------------------------

#if defined(__x86_64__)
// Saves the callee-saved registers on the old stack, restores them from the new one (System V).
extern "C" void galvani_emu_switch(void** save, void* load);
asm(R"(.text
.globl galvani_emu_switch
.hidden galvani_emu_switch
.type galvani_emu_switch, @function
galvani_emu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size galvani_emu_switch, .-galvani_emu_switch
)");
struct Context {
  void* sp = nullptr;
  void prepare(unsigned char* stack, size_t size, void (*entry)()) {
    void** top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(stack) + size) & ~uintptr_t{15});
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    sp = top;
  }
};
void switch_to(Context& from, Context& to) { galvani_emu_switch(&from.sp, to.sp); }
#else
struct Context {
  ucontext_t context;
  void prepare(unsigned char* stack, size_t size, void (*entry)()) {
    getcontext(&context);
    context.uc_stack = {stack, 0, size};
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
  }
};
void switch_to(Context& from, Context& to) { swapcontext(&from.context, &to.context); }
#endif

constexpr size_t kStack = 128 << 10;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

float widen(uint32_t half) {
  const uint32_t bits = half << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

class Rng {
 public:
  explicit Rng(uint64_t seed) : state_(seed) {}
  uint64_t bits() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  uint64_t below(uint64_t n) { return bits() % n; }

 private:
  uint64_t state_;
};

// ---- what a schedule decides ----------------------------------------------------------------------------------------

struct Schedule {
  bool late_copies = false;   // cp.async lands when waited for
  bool late_wgmma = false;    // wgmma lands when waited for
  int tma = 0;                // 0 at once, 1 when nobody else can move, 2 at random
  bool reverse_lanes = false;
  bool reverse_blocks = false;
  bool run_ahead = false;     // a random warp runs until it blocks
  int victim = -1;            // this warp moves only when nobody else can
  unsigned preempt = 0;       // 1 in so many primitives gives way

  static Schedule of(uint64_t seed, int warps) {
    Schedule s;
    if (seed == 0) return s;
    Rng rng(seed * 0x2545f4914f6cdd1dull);
    s.late_copies = seed & 1;
    s.late_wgmma = seed & 2 ? !s.late_copies : s.late_copies;
    s.tma = static_cast<int>(rng.below(3));
    s.reverse_lanes = rng.below(2);
    s.reverse_blocks = rng.below(2);
    s.run_ahead = rng.below(3) == 0;
    if (!s.run_ahead && rng.below(4) != 0) s.victim = static_cast<int>(rng.below(static_cast<uint64_t>(warps)));
    s.preempt = rng.below(2) ? 4 : 0;
    return s;
  }
};

// ---- the state of one block -----------------------------------------------------------------------------------------

struct Copy {
  void* to;
  const void* from;
  bool ok;
  int group;
};

struct WgmmaOp {
  float* d;
  const float* before;  // d when the first of its pending operations was issued; null: d itself
  uint32_t a[4];
  bool registers;
  uint64_t desc_a, desc_b;
  bool accumulate;
  int group;
};

struct Fiber {
  Context context;
  bool done = false;
  bool blocked = false;
  const char* waits_for = "";
  std::vector<Copy> copies;
  int copy_group = 0;
  std::vector<WgmmaOp> wgmmas;
  std::vector<std::unique_ptr<float[]>> snapshots;
  int wgmma_group = 0;
};

struct Rendezvous {
  int arrived = 0;
  uint64_t generation = 0;
  const char* name = "";
};

// Operands of a warp instruction; two sets, so that the next one may start while slow lanes still read.
struct WarpSlots {
  uint32_t value[32];
  const void* row[32];
  uint32_t a[32][4], b[32][2];
  float c[32][4];
  uint32_t out[32][4];
  double wide_a[32], wide_b[32], wide_c[32][2];
};

struct Warp {
  Rendezvous meet;
  WarpSlots slots[2];
};

struct NamedBarrier {
  int arrived = 0;
  int expected = 0;
  uint64_t generation = 0;
};

struct Mbarrier {
  int count = 0, pending = 0;
  int64_t bytes = 0;
  int phase = 0;
};

struct Tma {
  unsigned char* to;
  Map map;
  int at[3];
  uint64_t* bar;
};

struct Block {
  int64_t x = 0, y = 0;
  Grid grid;
  int threads = 0;
  unsigned char* shared = nullptr;
  size_t shared_bytes = 0;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<Rendezvous> groups;
  NamedBarrier barriers[16];
  std::unordered_map<const void*, Mbarrier> mbarriers;
  std::vector<Tma> tma_queue;
  Schedule schedule;
  Rng rng{0};
  int current = 0, live = 0;
  uint64_t events = 0;  // anything that may let another thread move
  Context main;
  const std::function<void()>* kernel = nullptr;
  std::string error;
};

Block* block = nullptr;
// GALVANI_SCHEDULE=N chooses one for programs that do not: every launch then has another, derived from N.
uint64_t schedule_seed = [] {
  const char* text = std::getenv("GALVANI_SCHEDULE");
  return text ? std::strtoull(text, nullptr, 10) : 0ull;
}();
uint64_t launches = 0;
std::string last_error;

Fiber& self() { return block->fibers[static_cast<size_t>(block->current)]; }
int lane() { return block->current & 31; }
Warp& warp() { return block->warps[static_cast<size_t>(block->current >> 5)]; }

void yield(const char* what) {
  Fiber& fiber = self();
  fiber.blocked = true;
  fiber.waits_for = what;
  switch_to(fiber.context, block->main);
  fiber.blocked = false;
}

void entry() {
  (*block->kernel)();
  if (!self().copies.empty()) self().copies.clear();
  self().done = true;
  --block->live;
  ++block->events;
  yield("nothing: it has returned");
  std::abort();
}

// The last of n arrivals runs op. Returns the generation of this meeting.
template <class Op>
uint64_t meet(Rendezvous& r, int n, const char* name, const Op& op) {
  const uint64_t generation = r.generation;
  if (r.arrived == 0)
    r.name = name;
  else if (std::strcmp(r.name, name) != 0)
    fail((std::string("divergence: ") + name + " while other threads are at " + r.name).c_str());
  ++block->events;
  if (++r.arrived == n) {
    op();
    r.arrived = 0;
    ++r.generation;
  } else {
    while (r.generation == generation) yield(name);
  }
  return generation;
}

WarpSlots& slots() {
  Warp& w = warp();
  return w.slots[w.meet.generation & 1];
}

void check_aligned(const void* pointer, size_t to, const char* what) {
  if (reinterpret_cast<uintptr_t>(pointer) % to != 0) fail(what);
}

bool in_shared(const void* pointer, size_t bytes) {
  const auto* p = static_cast<const unsigned char*>(pointer);
  return p >= block->shared && p + bytes <= block->shared + block->shared_bytes;
}

// ---- asynchronous work ----------------------------------------------------------------------------------------------

void land(const Copy& copy) {
  if (copy.ok)
    std::memcpy(copy.to, copy.from, 16);
  else
    std::memset(copy.to, 0, 16);
}

uint32_t offset_of(const void* p) { return static_cast<uint32_t>(static_cast<const unsigned char*>(p) - block->shared); }
// 128-byte swizzle: 16-byte chunk index XOR row index, over 8 rows of 128 bytes.
uint32_t swizzled(uint32_t offset) { return offset ^ (((offset >> 7) & 7) << 4); }

void complete(Mbarrier& bar) {
  ++block->events;
  if (bar.pending == 0 && bar.bytes == 0) {
    bar.phase ^= 1;
    bar.pending = bar.count;
  }
}

Mbarrier& mbarrier(uint64_t* bar) {
  const auto found = block->mbarriers.find(bar);
  if (found == block->mbarriers.end()) fail("mbarrier used before mbarrier.init");
  return found->second;
}

template <class Each>
void each_of_box(const Tma& t, const Each& each) {
  uint32_t n = 0;
  for (int z = 0; z < t.map.box[2]; ++z)
    for (int y = 0; y < t.map.box[1]; ++y)
      for (int x = 0; x < t.map.box[0]; ++x, ++n) {
        const int64_t at[3] = {int64_t{t.at[0]} + x, int64_t{t.at[1]} + y, int64_t{t.at[2]} + z};
        bool inside = true;
        for (int i = 0; i < 3; ++i) inside = inside && at[i] >= 0 && at[i] < t.map.size[i];
        const unsigned char* from =
            inside ? t.map.base + at[0] * t.map.stride[0] + at[1] * t.map.stride[1] + at[2] * t.map.stride[2] : nullptr;
        each(block->shared + swizzled(offset_of(t.to) + 2 * n), from);
      }
}

void land(const Tma& t) {
  each_of_box(t, [](unsigned char* to, const unsigned char* from) {
    if (from)
      std::memcpy(to, from, 2);
    else
      std::memset(to, 0, 2);
  });
  Mbarrier& bar = block->mbarriers[t.bar];
  bar.bytes -= int64_t{2} * t.map.box[0] * t.map.box[1] * t.map.box[2];
  complete(bar);
}

float shared_element(uint32_t offset) {
  if (offset + 2 > block->shared_bytes) {
    block->error = "wgmma descriptor reaches outside shared memory";
    return kNan;
  }
  uint16_t bits;
  std::memcpy(&bits, block->shared + swizzled(offset), 2);
  return widen(bits);
}

// One wgmma of a warpgroup: the same operation of its 128 threads.
void execute(int group, size_t index) {
  static float a[64][16], b[16][128], sum[64][128];
  Fiber* fibers = &block->fibers[static_cast<size_t>(group) * 128];
  const WgmmaOp& op = fibers[0].wgmmas[index];
  const auto start = [](uint64_t d) { return static_cast<uint32_t>(d & 0x3fff) << 4; };
  const auto leading = [](uint64_t d) { return static_cast<uint32_t>((d >> 16) & 0x3fff) << 4; };
  const auto stride = [](uint64_t d) { return static_cast<uint32_t>((d >> 32) & 0x3fff) << 4; };
  if (op.registers) {
    for (int t = 0; t < 128; ++t) {
      const uint32_t* r = fibers[t].wgmmas[index].a;
      const int row = 16 * (t / 32) + (t % 32) / 4, column = 2 * (t % 4);
      for (int i = 0; i < 2; ++i) {
        a[row][column + i] = widen((r[0] >> (16 * i)) & 0xffff);
        a[row + 8][column + i] = widen((r[1] >> (16 * i)) & 0xffff);
        a[row][column + 8 + i] = widen((r[2] >> (16 * i)) & 0xffff);
        a[row + 8][column + 8 + i] = widen((r[3] >> (16 * i)) & 0xffff);
      }
    }
  } else {
    for (uint32_t r = 0; r < 64; ++r)
      for (uint32_t k = 0; k < 16; ++k)
        a[r][k] = shared_element(start(op.desc_a) + (r / 8) * stride(op.desc_a) + (r % 8) * 128 + 2 * k);
  }
  const uint32_t at = start(op.desc_b), lbo = leading(op.desc_b), sbo = stride(op.desc_b);
  for (uint32_t n = 0; n < 128; ++n)
    for (uint32_t k = 0; k < 16; ++k)
      b[k][n] = op.registers ? shared_element(at + (n / 64) * lbo + (k / 8) * sbo + (k % 8) * 128 + (n % 64) * 2)
                             : shared_element(at + (n / 8) * sbo + (n % 8) * 128 + 2 * k);
  for (int i = 0; i < 64; ++i) {
    for (int j = 0; j < 128; ++j) sum[i][j] = 0.0f;
    for (int k = 0; k < 16; ++k)
      for (int j = 0; j < 128; ++j) sum[i][j] += a[i][k] * b[k][j];
  }
  for (int t = 0; t < 128; ++t) {
    const WgmmaOp& mine = fibers[t].wgmmas[index];
    const int row = 16 * (t / 32) + (t % 32) / 4, column = 2 * (t % 4);
    for (int j = 0; j < 16; ++j)
      for (int i = 0; i < 4; ++i) {
        const float value = sum[row + (i & 2 ? 8 : 0)][8 * j + column + (i & 1)];
        float& d = mine.d[4 * j + i];
        d = mine.accumulate ? (mine.before ? mine.before[4 * j + i] : d) + value : value;
      }
  }
}

void finish_wgmma(int group, int pending) {
  Fiber* fibers = &block->fibers[static_cast<size_t>(group) * 128];
  size_t n = 0;
  while (n < fibers[0].wgmmas.size() && fibers[0].wgmmas[n].group < fibers[0].wgmma_group - pending) execute(group, n++);
  for (int t = 0; t < 128; ++t) {
    auto& ops = fibers[t].wgmmas;
    ops.erase(ops.begin(), ops.begin() + static_cast<std::ptrdiff_t>(n));
    if (ops.empty()) fibers[t].snapshots.clear();
  }
}

// ---- the scheduler --------------------------------------------------------------------------------------------------

void step(int w) {
  Block& b = *block;
  for (int i = 0; i < 32; ++i) {
    const int t = w * 32 + (b.schedule.reverse_lanes ? 31 - i : i);
    if (b.fibers[static_cast<size_t>(t)].done) continue;
    b.current = t;
    switch_to(b.main, b.fibers[static_cast<size_t>(t)].context);
    if (!b.error.empty()) return;
  }
}

bool finished(int w) {
  for (int i = 0; i < 32; ++i)
    if (!block->fibers[static_cast<size_t>(w * 32 + i)].done) return false;
  return true;
}

void deliver(size_t index) {
  const Tma t = block->tma_queue[index];
  block->tma_queue.erase(block->tma_queue.begin() + static_cast<std::ptrdiff_t>(index));
  land(t);
}

void say_deadlock() {
  Block& b = *block;
  b.error = "deadlock:";
  for (int w = 0; w < b.threads / 32; ++w)
    for (int i = 0; i < 32; ++i) {
      const Fiber& f = b.fibers[static_cast<size_t>(w * 32 + i)];
      if (f.done) continue;
      b.error += " warp " + std::to_string(w) + " waits at " + f.waits_for + ";";
      break;
    }
}

void run_block() {
  Block& b = *block;
  const int warps = b.threads / 32;
  int idle = 0;
  while (b.live > 0 && b.error.empty()) {
    const uint64_t before = b.events;
    if (b.schedule.run_ahead) {
      const int w = static_cast<int>(b.rng.below(static_cast<uint64_t>(warps)));
      if (finished(w)) continue;
      for (uint64_t events = b.events + 1; events != b.events && b.error.empty() && !finished(w);) {
        events = b.events;
        step(w);
      }
    } else {
      for (int w = 0; w < warps && b.error.empty(); ++w)
        if (w != b.schedule.victim && !finished(w)) step(w);
    }
    if (!b.error.empty()) break;
    if (b.schedule.tma == 0)
      while (!b.tma_queue.empty()) deliver(0);
    else if (b.schedule.tma == 2 && !b.tma_queue.empty() && b.rng.below(3) == 0)
      deliver(b.rng.below(b.tma_queue.size()));
    if (b.events != before) {
      idle = 0;
    } else if (++idle > (b.schedule.run_ahead ? 4 * warps : 0)) {
      // Nobody can move: let late copies land, then the starved warp, then all of them once more in order.
      if (!b.tma_queue.empty()) {
        deliver(b.rng.below(b.tma_queue.size()));
      } else {
        for (int w = 0; w < warps && b.error.empty(); ++w)
          if (!finished(w)) step(w);
        if (b.events == before && b.live > 0 && b.error.empty() && idle > 64 * warps) say_deadlock();
      }
    }
  }
}

}  // namespace

void set_schedule(uint64_t seed) {
  schedule_seed = seed;
  launches = 0;
}
const char* error() { return last_error.c_str(); }

int launch(const std::function<void()>& kernel, Grid grid, int threads, size_t shared_bytes) {
  last_error.clear();
  if (threads <= 0 || threads > 1024 || threads % 32 != 0 || shared_bytes > kMaxShared || grid.x < 0 || grid.y < 0) {
    last_error = "launch refused: " + std::to_string(threads) + " threads, " + std::to_string(shared_bytes) +
                 " bytes of shared memory";
    return 1;
  }
  static std::vector<std::unique_ptr<unsigned char[]>> stacks;
  while (stacks.size() < static_cast<size_t>(threads)) stacks.emplace_back(new unsigned char[kStack]);
  std::vector<unsigned char> memory(shared_bytes + 1024);
  const uint64_t seed = schedule_seed == 0 ? 0 : schedule_seed + 1009 * launches++;
  const int64_t count = grid.x * grid.y;
  for (int64_t i = 0; i < count; ++i) {
    Block b;
    block = &b;
    b.schedule = Schedule::of(seed, threads / 32);
    const int64_t index = b.schedule.reverse_blocks ? count - 1 - i : i;
    b.rng = Rng(seed * 31 + static_cast<uint64_t>(index));
    b.x = index % grid.x;
    b.y = index / grid.x;
    b.grid = grid;
    b.threads = b.live = threads;
    b.shared = memory.data() + (1024 - reinterpret_cast<uintptr_t>(memory.data()) % 1024) % 1024;
    b.shared_bytes = shared_bytes;
    std::memset(b.shared, 0xff, shared_bytes);
    b.fibers.resize(static_cast<size_t>(threads));
    b.warps.resize(static_cast<size_t>(threads / 32));
    b.groups.resize(static_cast<size_t>((threads + 127) / 128));
    b.kernel = &kernel;
    for (int t = 0; t < threads; ++t)
      b.fibers[static_cast<size_t>(t)].context.prepare(stacks[static_cast<size_t>(t)].get(), kStack, entry);
    run_block();
    block = nullptr;
    if (!b.error.empty()) {
      last_error = "block " + std::to_string(index) + ": " + b.error;
      return 1;
    }
  }
  return 0;
}

int thread_index() { return block->current; }
int block_threads() { return block->threads; }
int block_index(int axis) { return static_cast<int>(axis == 0 ? block->x : block->y); }
int grid_size(int axis) { return static_cast<int>(axis == 0 ? block->grid.x : block->grid.y); }
unsigned char* shared() { return block->shared; }

void fail(const char* what) {
  if (block->error.empty()) block->error = "thread " + std::to_string(block->current) + ": " + what;
  switch_to(self().context, block->main);
  std::abort();  // a failed block is never resumed
}

void preempt() {
  if (block->schedule.preempt && block->rng.below(block->schedule.preempt) == 0) {
    ++block->events;
    yield("its turn");
  }
}

void barrier(int id, int threads, bool wait) {
  if (id < 0 || id > 15 || threads <= 0 || threads % 32 != 0 || threads > block->threads)
    fail("barrier: id outside 0 … 15 or a thread count that is no multiple of 32");
  preempt();
  NamedBarrier& b = block->barriers[id];
  if (b.arrived > 0 && b.expected != threads) fail("barrier: threads disagree on how many take part");
  b.expected = threads;
  const uint64_t generation = b.generation;
  ++block->events;
  if (++b.arrived == threads) {
    b.arrived = 0;
    ++b.generation;
  }
  while (wait && b.generation == generation) yield("a barrier");
}

void warp_sync(const char* name) {
  meet(warp().meet, 32, name, [] {});
}

uint32_t exchange(uint32_t value, int from) {
  WarpSlots& s = slots();
  s.value[lane()] = value;
  meet(warp().meet, 32, "shfl", [] {});
  return s.value[from & 31];
}

bool any(bool predicate) {
  WarpSlots& s = slots();
  s.value[lane()] = predicate;
  meet(warp().meet, 32, "vote", [&] {
    uint32_t or_all = 0;
    for (uint32_t v : s.value) or_all |= v;
    s.out[0][0] = or_all;
  });
  return s.out[0][0] != 0;
}

void ldmatrix(uint32_t (&r)[4], const void* row, bool transposed) {
  check_aligned(row, 16, "ldmatrix: row address not 16-byte aligned");
  if (!in_shared(row, 16)) fail("ldmatrix: row outside shared memory");
  WarpSlots& s = slots();
  s.row[lane()] = row;
  meet(warp().meet, 32, "ldmatrix", [&] {
    for (int m = 0; m < 4; ++m)
      for (int t = 0; t < 32; ++t) {
        uint16_t e[2];
        for (int i = 0; i < 2; ++i) {
          const int line = transposed ? (t % 4) * 2 + i : t / 4, column = transposed ? t / 4 : (t % 4) * 2 + i;
          std::memcpy(&e[i], static_cast<const unsigned char*>(s.row[m * 8 + line]) + 2 * column, 2);
        }
        s.out[t][m] = e[0] | static_cast<uint32_t>(e[1]) << 16;
      }
  });
  for (int m = 0; m < 4; ++m) r[m] = s.out[lane()][m];
}

void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  WarpSlots& s = slots();
  const int me = lane();
  for (int i = 0; i < 4; ++i) {
    s.a[me][i] = a[i];
    s.c[me][i] = c[i];
  }
  s.b[me][0] = b0;
  s.b[me][1] = b1;
  meet(warp().meet, 32, "mma", [&] {
    float left[16][16], right[16][8], sum[16][8] = {};
    for (int t = 0; t < 32; ++t) {
      const int g = t / 4, q = 2 * (t % 4);
      for (int i = 0; i < 2; ++i) {
        const auto half = [i](uint32_t v) { return widen((v >> (16 * i)) & 0xffff); };
        left[g][q + i] = half(s.a[t][0]);
        left[g + 8][q + i] = half(s.a[t][1]);
        left[g][q + 8 + i] = half(s.a[t][2]);
        left[g + 8][q + 8 + i] = half(s.a[t][3]);
        right[q + i][g] = half(s.b[t][0]);
        right[q + 8 + i][g] = half(s.b[t][1]);
      }
    }
    for (int i = 0; i < 16; ++i)
      for (int k = 0; k < 16; ++k)
        for (int j = 0; j < 8; ++j) sum[i][j] += left[i][k] * right[k][j];
    for (int t = 0; t < 32; ++t) {
      const int g = t / 4, q = 2 * (t % 4);
      for (int i = 0; i < 2; ++i) {
        s.c[t][i] += sum[g][q + i];
        s.c[t][2 + i] += sum[g + 8][q + i];
      }
    }
  });
  for (int i = 0; i < 4; ++i) c[i] = s.c[me][i];
}

void mma_f64(double (&c)[2], double a, double b) {
  WarpSlots& s = slots();
  const int me = lane();
  s.wide_a[me] = a;
  s.wide_b[me] = b;
  s.wide_c[me][0] = c[0];
  s.wide_c[me][1] = c[1];
  meet(warp().meet, 32, "mma.f64", [&] {
    // a (8 × 4), b (4 × 8): lane 4 r + k has entry (r, k) of a and (k, r) of b; c: row lane / 4, two columns
    for (int t = 0; t < 32; ++t)
      for (int i = 0; i < 2; ++i)
        for (int k = 0; k < 4; ++k)
          s.wide_c[t][i] = std::fma(s.wide_a[t / 4 * 4 + k], s.wide_b[(t % 4 * 2 + i) * 4 + k], s.wide_c[t][i]);
  });
  c[0] = s.wide_c[me][0];
  c[1] = s.wide_c[me][1];
}

void cp_async(void* to, const void* from, bool ok) {
  check_aligned(to, 16, "cp.async: destination not 16-byte aligned");
  check_aligned(from, 16, "cp.async: source not 16-byte aligned");
  if (!in_shared(to, 16)) fail("cp.async: destination outside shared memory");
  const Copy copy{to, from, ok, self().copy_group};
  if (!block->schedule.late_copies) return land(copy);
  std::memset(to, 0xff, 16);
  self().copies.push_back(copy);
}

void cp_commit() { ++self().copy_group; }

void cp_wait(int pending) {
  preempt();
  Fiber& f = self();
  size_t kept = 0;
  for (const Copy& copy : f.copies) {
    if (copy.group < f.copy_group - pending)
      land(copy);
    else
      f.copies[kept++] = copy;
  }
  f.copies.resize(kept);
}

void mbar_init(uint64_t* bar, int arrivals) {
  check_aligned(bar, 8, "mbarrier.init: not 8-byte aligned");
  if (!in_shared(bar, 8)) fail("mbarrier.init: outside shared memory");
  Mbarrier& b = block->mbarriers[bar];
  b = Mbarrier{};
  b.count = b.pending = arrivals;
}

void mbar_arrive(uint64_t* bar, int64_t bytes) {
  preempt();
  Mbarrier& b = mbarrier(bar);
  if (b.pending <= 0) fail("mbarrier: more arrivals than it was initialised for");
  b.bytes += bytes;
  --b.pending;
  complete(b);
}

void mbar_wait(uint64_t* bar, int parity) {
  preempt();
  Mbarrier& b = mbarrier(bar);
  while (b.phase == parity) yield("an mbarrier");
}

void tma(void* to, const Map& map, const int (&at)[3], uint64_t* bar) {
  const size_t bytes = size_t{2} * static_cast<size_t>(map.box[0]) * static_cast<size_t>(map.box[1]) *
                       static_cast<size_t>(map.box[2]);
  check_aligned(to, 128, "tma: destination not 128-byte aligned");
  if (!in_shared(to, bytes)) fail("tma: box outside shared memory");
  if (map.box[0] * 2 != 128) fail("tma: the inner box must be 128 bytes for the 128-byte swizzle");
  mbarrier(bar);
  Tma t{static_cast<unsigned char*>(to), map, {at[0], at[1], at[2]}, bar};
  if (block->schedule.tma != 0) each_of_box(t, [](unsigned char* e, const unsigned char*) { std::memset(e, 0xff, 2); });
  block->tma_queue.push_back(t);
  ++block->events;
}

void wgmma_fence() { preempt(); }

void wgmma(float* d, const uint32_t* a, uint64_t desc_a, uint64_t desc_b, bool accumulate) {
  Fiber& f = self();
  for (const uint64_t desc : {a ? desc_b : desc_a, desc_b})
    if (desc >> 62 != 1) fail("wgmma: the descriptor does not say 128-byte swizzle");
  WgmmaOp op{d, nullptr, {}, a != nullptr, desc_a, desc_b, accumulate, f.wgmma_group};
  if (a) std::memcpy(op.a, a, sizeof op.a);
  const bool first = std::none_of(f.wgmmas.begin(), f.wgmmas.end(), [d](const WgmmaOp& o) { return o.d == d; });
  if (first && block->schedule.late_wgmma) {
    auto before = std::make_unique<float[]>(64);
    std::memcpy(before.get(), d, 64 * sizeof(float));
    op.before = before.get();
    f.snapshots.push_back(std::move(before));
    std::fill(d, d + 64, kNan);
  }
  f.wgmmas.push_back(op);
}

void wgmma_commit() {
  ++self().wgmma_group;
  if (block->schedule.late_wgmma) return;
  const int group = block->current / 128;
  meet(block->groups[static_cast<size_t>(group)], 128, "wgmma.commit", [group] { finish_wgmma(group, 0); });
}

void wgmma_wait(int pending) {
  preempt();
  const int group = block->current / 128;
  meet(block->groups[static_cast<size_t>(group)], 128, "wgmma.wait", [group, pending] { finish_wgmma(group, pending); });
}

void set_registers(int count, bool) {
  if (count < 24 || count > 256 || count % 8 != 0) fail("setmaxnreg: not a multiple of 8 in 24 … 256");
}

}  // namespace galvani::gpu::emu
