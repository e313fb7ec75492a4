// What the emulated back end adds to a device: poison, guard zones, ranges. The tests of the kernels rely on them.
#include <cstring>

#include "core/testing.h"
#include "device/array.h"

namespace galvani {
namespace {

void memory(const gpu::Backend& device) {
  DeviceArray<float> fresh(device, 1000);
  EXPECT(reinterpret_cast<uintptr_t>(fresh.data()) % 256 == 0, "blocks are 256-byte aligned");
  bool poisoned = true;
  for (float value : fresh.read()) poisoned &= std::isnan(value);
  EXPECT(poisoned, "fresh memory is NaN");

  std::vector<float> values(1000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  fresh.write(values);
  EXPECT(fresh.read() == values, "what is written is read");
  DeviceArray<float> other(device, 1000);
  EXPECT(device.copy(other.data(), fresh.data(), 4000, nullptr) == 0 && other.read() == values, "copy");
  EXPECT(device.fill(other.data() + 10, 0, 40, nullptr) == 0 && other.read()[19] == 0.0f && other.read()[20] == 20.0f,
         "fill of a part");

  const auto refused = [&](int code, const char* message) {
    EXPECT(code != 0 && std::strstr(device.last_error(), message), std::string("expected a refusal: ") + message);
  };
  refused(device.copy_in(fresh.data(), values.data(), 4001, nullptr), "copy_in: 4001 bytes");
  refused(device.copy_out(values.data(), fresh.data() + 999, 8, nullptr), "are not inside one block");
  refused(device.copy(fresh.data(), other.data() + 1, 4000, nullptr), "copy: 4000 bytes");
  refused(device.fill(values.data(), 0, 4, nullptr), "fill: 4 bytes");
  refused(device.free(fresh.data() + 1), "is not the start of a block");
  void* none = nullptr;
  refused(device.alloc(&none, -1), "alloc: -1 bytes");
}

void guards(const gpu::Backend& device) {
  for (const auto& [at, where] : {std::pair{-1, "before its start"}, {7, "beyond its end"}, {270, "beyond its end"}}) {
    void* block = nullptr;
    EXPECT(device.alloc(&block, 7) == 0, "alloc");
    EXPECT(device.sync(nullptr) == 0, "whole guards");
    static_cast<unsigned char*>(block)[at] ^= 1;
    EXPECT(device.sync(nullptr) != 0 && std::strstr(device.last_error(), where), "sync sees a broken guard");
    EXPECT(device.free(block) != 0 && std::strstr(device.last_error(), where), "free sees a broken guard");
    EXPECT(device.sync(nullptr) == 0, "a freed block is forgotten");
  }
}

void streams(const gpu::Backend& device) {
  void *stream = nullptr, *first = nullptr, *last = nullptr;
  EXPECT(device.stream_create(&stream) == 0 && device.event_create(&first) == 0 && device.event_create(&last) == 0,
         "a stream and two events");
  float ms = -1.0f;
  EXPECT(device.event_record(first, stream) == 0 && device.event_record(last, stream) == 0 &&
             device.event_elapsed_ms(&ms, first, last) == 0 && ms >= 0.0f,
         "time between two events");
  EXPECT(device.event_destroy(first) == 0 && device.event_destroy(last) == 0 && device.stream_destroy(stream) == 0,
         "destroyed");
}

}  // namespace
}  // namespace galvani

int main() {
  using namespace galvani;
  EXPECT(gpu::galvani_backend(gpu::kBackendAbi + 1) == nullptr, "another ABI gets no table");
  const gpu::Backend& device = *gpu::galvani_backend(gpu::kBackendAbi);
  int32_t count = 0;
  gpu::DeviceInfo info;
  EXPECT(device.device_count(&count) == 0 && count == 1 && device.device_info(0, &info) == 0, "one device");
  EXPECT(device.device_info(1, &info) != 0 && device.set_device(1) != 0, "there is no second one");
  memory(device);
  guards(device);
  streams(device);
  return testing::report();
}
