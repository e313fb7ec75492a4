// The emulated back end: the same table over host memory, with the kernels compiled by g++ against the emulator, so that
// everything above the table runs in CI. What it adds to a real device is suspicion: fresh memory is 0xFF (NaN), every
// block has guard zones that are checked, and ranges must lie inside one block. Streams are synchronous.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "ops/gpu/emu.h"

namespace galvani::gpu {
namespace {
const char* code_text(int) { return emu::error(); }
}  // namespace
}  // namespace galvani::gpu

#include "device/entries.h"

namespace galvani::gpu {
namespace {

constexpr int64_t kGuard = 256;  // bytes before and after a block; also its alignment
constexpr unsigned char kPoison = 0xFF, kGuardByte = 0xA5;

std::mutex mutex;
std::map<uintptr_t, int64_t>& blocks() {  // start → bytes
  static std::map<uintptr_t, int64_t> instance;
  return instance;
}

int64_t rounded(int64_t bytes) { return (bytes + kGuard - 1) / kGuard * kGuard; }

// Null, or what was overwritten around the block.
const char* damage(uintptr_t start, int64_t bytes) {
  const auto* block = reinterpret_cast<const unsigned char*>(start);
  for (int64_t i = 1; i <= kGuard; ++i)
    if (block[-i] != kGuardByte) return "before its start";
  for (int64_t i = bytes; i < rounded(bytes) + kGuard; ++i)
    if (block[i] != kGuardByte) return "beyond its end";
  return nullptr;
}

int check_guards() {
  const std::lock_guard lock(mutex);
  for (const auto& [start, bytes] : blocks())
    if (const char* where = damage(start, bytes))
      return refuse("a block of %lld bytes was written %s", static_cast<long long>(bytes), where);
  return 0;
}

int check_range(const char* what, const void* pointer, int64_t bytes) {
  const std::lock_guard lock(mutex);
  const auto at = reinterpret_cast<uintptr_t>(pointer);
  auto block = blocks().upper_bound(at);
  if (bytes == 0) return 0;
  if (bytes < 0 || block == blocks().begin() || (--block)->first + block->second < at + bytes)
    return refuse("%s: %lld bytes at %p are not inside one block", what, static_cast<long long>(bytes), pointer);
  return 0;
}

int device_count(int32_t* count) {
  *count = 1;
  return 0;
}

int device_info(int32_t device, DeviceInfo* info) {
  std::memset(info, 0, sizeof *info);
  if (device != 0) return refuse("device_info: device %d of 1", device);
  std::snprintf(info->name, sizeof info->name, "emulator on the CPU");
  info->compute_major = 9;
  info->multiprocessors = 4;  // few, so that small problems have several waves
  info->shared_bytes = 227 * 1024;
  info->memory_bytes = int64_t{1} << 32;
  info->l2_bytes = int64_t{1} << 20;
  std::snprintf(info->gemm, sizeof info->gemm, "own kernel, emulated");
  return 0;
}

int set_device(int32_t device) { return device == 0 ? 0 : refuse("set_device: device %d of 1", device); }

int alloc(void** pointer, int64_t bytes) {
  *pointer = nullptr;
  if (bytes < 0) return refuse("alloc: %lld bytes", static_cast<long long>(bytes));
  auto* base = static_cast<unsigned char*>(
      std::aligned_alloc(static_cast<size_t>(kGuard), static_cast<size_t>(rounded(bytes) + 2 * kGuard)));
  if (!base) return refuse("alloc: %lld bytes wanted, the host has no more", static_cast<long long>(bytes));
  std::memset(base, kGuardByte, static_cast<size_t>(rounded(bytes) + 2 * kGuard));
  std::memset(base + kGuard, kPoison, static_cast<size_t>(bytes));
  *pointer = base + kGuard;
  const std::lock_guard lock(mutex);
  blocks()[reinterpret_cast<uintptr_t>(*pointer)] = bytes;
  return 0;
}

int release(void* pointer) {
  if (!pointer) return 0;
  const std::lock_guard lock(mutex);
  const auto block = blocks().find(reinterpret_cast<uintptr_t>(pointer));
  if (block == blocks().end()) return refuse("free: %p is not the start of a block", pointer);
  const char* where = damage(block->first, block->second);
  const auto bytes = static_cast<long long>(block->second);
  blocks().erase(block);
  std::free(static_cast<unsigned char*>(pointer) - kGuard);
  return where ? refuse("free: a block of %lld bytes was written %s", bytes, where) : 0;
}

int fill(void* pointer, int32_t byte, int64_t bytes, void*) {
  if (const int code = check_range("fill", pointer, bytes)) return code;
  std::memset(pointer, byte, static_cast<size_t>(bytes));
  return 0;
}
int copy_in(void* to, const void* from, int64_t bytes, void*) {
  if (const int code = check_range("copy_in", to, bytes)) return code;
  std::memcpy(to, from, static_cast<size_t>(bytes));
  return 0;
}
int copy_out(void* to, const void* from, int64_t bytes, void*) {
  if (const int code = check_range("copy_out", from, bytes)) return code;
  std::memcpy(to, from, static_cast<size_t>(bytes));
  return 0;
}
int copy(void* to, const void* from, int64_t bytes, void*) {
  if (const int code = check_range("copy", to, bytes)) return code;
  if (const int code = check_range("copy", from, bytes)) return code;
  std::memmove(to, from, static_cast<size_t>(bytes));
  return 0;
}

int stream_create(void** stream) {
  *stream = new char;
  return 0;
}
int stream_destroy(void* stream) {
  delete static_cast<char*>(stream);
  return 0;
}
int sync(void*) { return check_guards(); }

using Clock = std::chrono::steady_clock;
int event_create(void** event) {
  *event = new Clock::time_point();
  return 0;
}
int event_destroy(void* event) {
  delete static_cast<Clock::time_point*>(event);
  return 0;
}
int event_record(void* event, void*) {
  *static_cast<Clock::time_point*>(event) = Clock::now();
  return 0;
}
int event_elapsed_ms(float* ms, void* first, void* last) {
  const auto time = *static_cast<Clock::time_point*>(last) - *static_cast<Clock::time_point*>(first);
  *ms = std::chrono::duration<float, std::milli>(time).count();
  return 0;
}

// The library is whatever GALVANI_CUSOLVER names: here one that takes host memory for the device's.
int eigen_workspace(EigenParams* params) { return finish_eigen(cusolver::workspace(*params, 0)); }
int eigen(const EigenParams* params, void* stream) {
  const int64_t k = params->k, size = static_cast<int64_t>(sizeof(double));
  for (const auto& [pointer, bytes] : {std::pair<const void*, int64_t>{params->matrix, k * k * size},
                                       {params->values, k * size},
                                       {params->info, static_cast<int64_t>(sizeof(int32_t))},
                                       {params->workspace, params->workspace_bytes}})
    if (const int code = check_range("eigen", pointer, bytes)) return code;
  return finish_eigen(cusolver::eigen(*params, 0, stream));
}

const Backend& table() {
  static const Backend instance = [] {
    Backend t{};
    t.name = "emulated";
    t.targets = "this CPU";
    t.device_count = device_count;
    t.device_info = device_info;
    t.set_device = set_device;
    t.alloc = alloc;
    t.free = release;
    t.fill = fill;
    t.copy_in = copy_in;
    t.copy_out = copy_out;
    t.copy = copy;
    t.stream_create = stream_create;
    t.stream_destroy = stream_destroy;
    t.sync = sync;
    t.event_create = event_create;
    t.event_destroy = event_destroy;
    t.event_record = event_record;
    t.event_elapsed_ms = event_elapsed_ms;
    add_kernels(t, gemm_mma_entry);
    t.eigen_workspace = eigen_workspace;
    t.eigen = eigen;
    return t;
  }();
  return instance;
}

}  // namespace

extern "C" const Backend* galvani_backend(uint32_t abi) { return abi == kBackendAbi ? &table() : nullptr; }

}  // namespace galvani::gpu
