// Where NVIDIA's libraries lie: those we open by dlopen are installed by a toolkit, by conda or by Python wheels, and seldom on
// the loader's path.
#pragma once
#include <string>
#include <vector>

namespace galvani::gpu {

// What to hand to dlopen for libNAME.so.VERSION, in order: the loader's path, $CUDA_HOME and /usr/local/cuda, the folders of
// Python wheels (`wheel` is the CUDA 12 folder's name; CUDA 13 has one for all). `versions`: newest first.
std::vector<std::string> nvidia_library_paths(const std::string& name, const std::vector<std::string>& versions,
                                              const std::string& wheel);

}  // namespace galvani::gpu
