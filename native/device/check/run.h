// Brings a scene to a device, plans and launches it, and brings everything back. Depends on the backend table alone.
//
// Outputs are poisoned before the launches and fenced by guard bytes, so that what was not written, or written beside,
// is seen. Inputs are read back too: kernels must not change them.
#pragma once
#include <cstring>
#include <string>
#include <vector>

#include "device/backend.h"
#include "device/check/scene.h"

namespace galvani::gpu::check {

inline constexpr uint8_t kPoison = 0xFF;  // NaN as float and bfloat16

// A buffer that a launch writes. Empty: not wanted.
template <class T>
struct Output {
  std::vector<T> data;  // what came back, poison where nothing was written
  T& operator[](int64_t i) { return data[static_cast<size_t>(i)]; }
  const T& operator[](int64_t i) const { return data[static_cast<size_t>(i)]; }
  bool wanted() const { return !data.empty(); }
  bool untouched(int64_t i) const {
    const uint8_t* bytes = reinterpret_cast<const uint8_t*>(&data[static_cast<size_t>(i)]);
    for (size_t b = 0; b < sizeof(T); ++b)
      if (bytes[b] != poison) return false;
    return true;
  }
  uint8_t poison = kPoison;
};

struct DeviceOutputs {
  Output<uint16_t> out;
  Output<float> lse, entropy, mass, run_max, part_o, part_state, part_segment, key_mass, pattern, top_weight;
  Output<int32_t> top_index;
};

struct SceneRun {
  AttnPlan plan;
  DeviceOutputs outputs;
  std::string error;                 // a call that failed, with the backend's sentence
  std::vector<std::string> changed;  // guards or inputs that were written
  std::string kernels;               // what was launched: "attn_mma 12, attn_combine 40"
};

// `again`: launches everything twice, with another poison, and reports outputs whose bits differ in `changed`.
SceneRun run_scene(const Backend& backend, const Scene& scene, bool again);

}  // namespace galvani::gpu::check
