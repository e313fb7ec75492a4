#include "ops/gpu/nvidia_library.h"

#include <glob.h>

#include <cstdlib>

namespace galvani::gpu {

std::vector<std::string> nvidia_library_paths(const std::string& name, const std::vector<std::string>& versions,
                                              const std::string& wheel) {
  const auto root = [](const char* variable) {
    const char* value = std::getenv(variable);
    return std::string(value ? value : "");
  };
  std::vector<std::string> folders;  // patterns of glob
  for (const std::string& home : {root("CUDA_HOME"), std::string("/usr/local/cuda")})
    if (!home.empty()) folders.push_back(home + "/lib64");
  const std::string user = root("HOME");
  for (const std::string& prefix : {root("VIRTUAL_ENV"), root("CONDA_PREFIX"), user.empty() ? user : user + "/.local",
                                    std::string("/usr/local"), std::string("/usr")})
    if (!prefix.empty())
      for (const char* packages : {"site-packages", "dist-packages"})
        for (const std::string& folder : {std::string("cu13"), wheel})
          folders.push_back(prefix + "/lib/python3*/" + packages + "/nvidia/" + folder + "/lib");

  std::vector<std::string> files;
  for (const std::string& version : versions) files.push_back("lib" + name + ".so." + version);
  std::vector<std::string> out = files;
  for (const std::string& folder : folders)
    for (const std::string& file : files) {
      glob_t found{};
      if (glob((folder + "/" + file).c_str(), 0, nullptr, &found) == 0)
        for (size_t i = found.gl_pathc; i-- > 0;) out.emplace_back(found.gl_pathv[i]);
      globfree(&found);
    }
  return out;
}

}  // namespace galvani::gpu
