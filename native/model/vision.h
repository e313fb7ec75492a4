// The Qwen2.5-VL vision tower and projector (arXiv 2502.13923) over many images at once.
//
//   x = patches W;  per block: x += attn(norm1(x)) in windows (full in a few blocks);  x += mlp(norm2(x))
//   image tokens = fc2(gelu(fc1(norm(x) grouped by merge²)))
//
// Rows run in window order inside; every site, row number and output speaks the processor's merge-grouped order.
#pragma once
#include <memory>
#include <vector>

#include "model/capture.h"
#include "model/request.h"

namespace galvani {

// One image through one tower with one set of interventions; shared by all trials that ask for just that.
struct VisionJob {
  int32_t image = 0;
  const VisionTower* tower = nullptr;
  const Projector* projector = nullptr;
  struct Bound {
    Edit edit;            // rows relative to this image
    int32_t source = -1;  // job
  };
  std::vector<Bound> edits;
  std::vector<std::pair<CaptureSink*, int32_t>> captures;  // sink, first patch (token) row of this image in its prompt
};

// Encodes all jobs, source jobs first in the list. Returns per job the image tokens (patches / merge², C).
std::vector<std::vector<float>> encode_images(const VisionConfig& config, const std::vector<ImageInput>& images,
                                              const std::vector<VisionJob>& jobs, ThreadPool& pool);

// Order of merged cells by attention window, and the number of patches in each window.
void window_order(const VisionConfig& config, const std::array<int32_t, 3>& grid, std::vector<int32_t>& cells,
                  std::vector<int32_t>& window_patches);

}  // namespace galvani
