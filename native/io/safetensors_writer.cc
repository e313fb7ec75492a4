#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "core/status.h"
#include "io/json.h"
#include "io/safetensors.h"

namespace galvani {
namespace {

std::string temporary_beside(const std::string& path) {
  static std::atomic<uint64_t> counter{0};
  return path + ".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(counter.fetch_add(1));
}

}  // namespace

SafetensorsWriter::SafetensorsWriter(std::string path, std::map<std::string, std::string> metadata)
    : path_(std::move(path)), temporary_(temporary_beside(path_)), metadata_(std::move(metadata)) {}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

void SafetensorsWriter::fail(const char* action, int error) const {
  const Code code = error == ENOENT || error == ENOTDIR ? Code::kFileNotFound : Code::kIo;
  throw Error(code, path_ + ": cannot " + action + ": " + std::strerror(error));
}

void SafetensorsWriter::declare(const std::string& name, DType dtype, const std::vector<int64_t>& shape) {
  const std::string where = path_ + ": tensor " + quoted(name);
  if (data_start_) throw Error(Code::kBadArgument, where + ": declared after the first write");
  if (name == "__metadata__" || !is_utf8(name)) throw Error(Code::kBadArgument, where + ": not a usable name");
  int64_t bytes = dtype_size(dtype);
  for (const int64_t dimension : shape)
    if (dimension < 0 || __builtin_mul_overflow(bytes, dimension, &bytes))
      throw Error(Code::kBadArgument, where + ": impossible shape " + shape_text(shape));
  if (!slots_.emplace(name, Slot{dtype, shape, bytes}).second)
    throw Error(Code::kBadArgument, where + ": declared twice");
}

void SafetensorsWriter::start() {
  if (data_start_) return;
  std::vector<std::map<std::string, Slot>::iterator> order;
  for (auto slot = slots_.begin(); slot != slots_.end(); ++slot) order.push_back(slot);
  std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return dtype_size(a->second.dtype) > dtype_size(b->second.dtype);
  });

  std::string header = "{";
  auto comma = [&] {
    if (header.size() > 1) header += ',';
  };
  if (!metadata_.empty()) {
    header += "\"__metadata__\":{";
    bool first = true;
    for (const auto& [key, value] : metadata_) {
      if (!is_utf8(key) || !is_utf8(value))
        throw Error(Code::kBadArgument, path_ + ": metadata " + quoted(key) + " is not UTF-8");
      if (!first) header += ',';
      header += json_string(key) + ":" + json_string(value);
      first = false;
    }
    header += '}';
  }
  int64_t at = 0;
  for (const auto& slot : order) {
    auto& [name, tensor] = *slot;
    tensor.begin = at;
    if (__builtin_add_overflow(at, tensor.bytes, &at))
      throw Error(Code::kBadArgument, path_ + ": tensors exceed 2^63 bytes");
    comma();
    header += json_string(name) + ":{\"dtype\":\"" + dtype_name(tensor.dtype) + "\",\"shape\":[";
    for (size_t i = 0; i < tensor.shape.size(); ++i) {
      if (i) header += ',';
      header += std::to_string(tensor.shape[i]);
    }
    header += "],\"data_offsets\":[" + std::to_string(tensor.begin) + "," + std::to_string(at) + "]}";
  }
  header += '}';
  header.append((8 - header.size() % 8) % 8, ' ');
  if (header.size() > 100'000'000) throw Error(Code::kBadArgument, path_ + ": header beyond the format's 100 MB");

  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd_ < 0) fail("create", errno);
  unsigned char size[8];
  for (int i = 0; i < 8; ++i) size[i] = static_cast<unsigned char>(header.size() >> (8 * i));
  put(size, 8, 0);
  put(header.data(), static_cast<int64_t>(header.size()), 8);
  data_start_ = 8 + static_cast<int64_t>(header.size());
}

void SafetensorsWriter::put(const void* data, int64_t bytes, int64_t at) {
  const auto* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t done = ::pwrite(fd_, from, static_cast<size_t>(bytes), at);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail("write", errno);
    from += done, at += done, bytes -= done;
  }
}

void SafetensorsWriter::write(const std::string& name, const void* data, int64_t bytes, int64_t offset) {
  if (!data_start_) start();
  const std::string where = path_ + ": tensor " + quoted(name);
  const auto found = slots_.find(name);
  if (found == slots_.end()) throw Error(Code::kBadArgument, where + ": written but never declared");
  Slot& slot = found->second;
  if (bytes < 0 || offset < 0 || offset > slot.bytes || bytes > slot.bytes - offset)
    throw Error(Code::kBadArgument, where + ": " + std::to_string(bytes) + " bytes at " + std::to_string(offset) +
                                        " leave its " + std::to_string(slot.bytes));
  put(data, bytes, data_start_ + slot.begin + offset);
  const std::lock_guard lock(written_mutex_);
  slot.written += bytes;
}

void SafetensorsWriter::finish() {
  if (!data_start_) start();
  GALVANI_CHECK(fd_ >= 0);
  for (const auto& [name, slot] : slots_)
    if (slot.written != slot.bytes)
      throw Error(Code::kBadArgument, path_ + ": tensor " + quoted(name) + ": expected " + std::to_string(slot.bytes) +
                                          " bytes, got " + std::to_string(slot.written));
  if (::fsync(fd_) != 0) fail("sync", errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail("rename into place", errno);
  ::close(fd_);
  fd_ = -1;
  // The rename itself must survive a power cut: sync the folder. Some file systems refuse; the data are safe anyway.
  const size_t slash = path_.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path_.substr(0, slash + 1);
  const int folder_fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder_fd >= 0) {
    ::fsync(folder_fd);
    ::close(folder_fd);
  }
}

}  // namespace galvani
