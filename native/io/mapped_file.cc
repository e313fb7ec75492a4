#include "io/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/status.h"

namespace galvani {
namespace {

[[noreturn]] void fail(const std::string& path, const char* action, int error) {
  const Code code = error == ENOENT || error == ENOTDIR ? Code::kFileNotFound : Code::kIo;
  throw Error(code, path + ": cannot " + action + ": " + std::strerror(error));
}

struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

int64_t page_size() {
  static const int64_t size = ::sysconf(_SC_PAGESIZE);
  return size;
}

}  // namespace

std::shared_ptr<MappedFile> MappedFile::open(const std::string& path) {
  // O_NONBLOCK: opening a named pipe must fail below instead of waiting for a writer.
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) fail(path, "open", errno);
  struct stat status {};
  if (::fstat(file.fd, &status) != 0) fail(path, "stat", errno);
  if (!S_ISREG(status.st_mode)) throw Error(Code::kIo, path + ": not a regular file");
  if (status.st_size == 0) return std::shared_ptr<MappedFile>(new MappedFile(path, nullptr, 0));
  void* data = ::mmap(nullptr, static_cast<size_t>(status.st_size), PROT_READ, MAP_SHARED, file.fd, 0);
  if (data == MAP_FAILED) fail(path, "map", errno);
  return std::shared_ptr<MappedFile>(new MappedFile(path, static_cast<const std::byte*>(data), status.st_size));
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), static_cast<size_t>(size_));
}

void MappedFile::will_need(int64_t offset, int64_t bytes) const {
  const int64_t begin = std::max<int64_t>(offset, 0) / page_size() * page_size();
  const int64_t end = std::min(offset + bytes, size_);
  if (data_ && begin < end)
    ::madvise(const_cast<std::byte*>(data_) + begin, static_cast<size_t>(end - begin), MADV_WILLNEED);
}

void MappedFile::done_with(int64_t offset, int64_t bytes) const {
  // Inward: a page shared with the neighbouring tensor stays.
  const int64_t begin = (std::max<int64_t>(offset, 0) + page_size() - 1) / page_size() * page_size();
  const int64_t end = std::min(offset + bytes, size_) / page_size() * page_size();
  if (data_ && begin < end)
    ::madvise(const_cast<std::byte*>(data_) + begin, static_cast<size_t>(end - begin), MADV_DONTNEED);
}

}  // namespace galvani
