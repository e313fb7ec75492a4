// libFuzzer entry of the checkpoint reader. Not part of the build (the name ends in _fuzz). With clang:
//
//   clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -Inative native/io/safetensors_fuzz.cc
//       native/io/{json,mapped_file,safetensors}.cc native/core/{dtype,status}.cc -o fuzz
//   ./fuzz -max_len=4096 corpus/        (seed corpus/ with any small .safetensors files)
//
// The bytes go through a real file: mapping is part of what is tested. Any typed Error is a pass; crashes, other
// exceptions and reads outside the file are findings.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>

#include "core/status.h"
#include "io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const int fd = memfd_create("fuzz.safetensors", 0);
  if (fd < 0 || write(fd, data, size) != static_cast<ssize_t>(size)) std::abort();
  try {
    const auto checkpoint = galvani::Checkpoint::open("/proc/self/fd/" + std::to_string(fd));
    unsigned sum = 0;
    for (const std::string& name : checkpoint->names()) {
      const galvani::TensorView& view = checkpoint->at(name);
      for (int64_t i = 0; i < view.bytes(); ++i) sum += static_cast<unsigned>(view.data[i]);
    }
    checkpoint->find(std::string(reinterpret_cast<const char*>(data), size < 64 ? size : 64));
    if (sum == 0xffffffffu) std::abort();  // keeps the reads; no small file sums to this
  } catch (const galvani::Error&) {
  }
  close(fd);
  return 0;
}
