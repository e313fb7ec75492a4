// Shared objects that pretend to be galvani_cuda.so, one per -DFAKE=…, for the loader's test.
#include "device/backend.h"

namespace galvani::gpu {
namespace {

const char* last_error() { return "the fake device is on fire"; }
int count_devices(int32_t* count) {
  *count = FAKE == 3 ? 0 : FAKE == 5 ? 2 : 1;
  return FAKE == 4 ? 7 : 0;
}
int describe(int32_t, DeviceInfo* info) {
  *info = {"Fake 9000", 9, 0, 132, 232448, int64_t{80} << 30, 0, 13010, 13000, "none at all"};
  return 0;
}

}  // namespace

#if FAKE != 0
extern "C" const Backend* galvani_backend(uint32_t) {
  static Backend table{};
  table.abi = FAKE == 1 ? kBackendAbi + 1 : kBackendAbi;
  table.size = FAKE == 2 ? sizeof(Backend) - 8 : sizeof(Backend);
  table.name = "fake";
  table.targets = "nothing";
  table.last_error = last_error;
  table.device_count = count_devices;
  table.device_info = describe;
  return &table;
}
#endif

}  // namespace galvani::gpu
