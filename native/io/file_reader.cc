#include "io/file_reader.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/status.h"

namespace galvani {

FileReader::FileReader(std::string path)
    : path_(std::move(path)), fd_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
  if (fd_ >= 0) return;
  const Code code = errno == ENOENT || errno == ENOTDIR ? Code::kFileNotFound : Code::kIo;
  throw Error(code, path_ + ": cannot open: " + std::strerror(errno));
}
FileReader::~FileReader() {
  if (fd_ >= 0) ::close(fd_);
}

void FileReader::read(void* to, int64_t bytes, int64_t offset) const {
  auto* at = static_cast<char*>(to);
  while (bytes > 0) {
    const ssize_t got = ::pread(fd_, at, static_cast<size_t>(bytes), offset);
    if (got > 0) {
      at += got, offset += got, bytes -= got;
      continue;
    }
    const int error = errno;
    if (got < 0 && error == EINTR) continue;
    const std::string where =
        path_ + ": cannot read " + std::to_string(bytes) + " bytes at " + std::to_string(offset) + ": ";
    if (got < 0) throw Error(Code::kIo, where + std::strerror(error));
    throw Error(Code::kBadFile, where + "the file ends before; it was shortened after it was opened");
  }
}

void FileReader::will_need(int64_t offset, int64_t bytes) const {
  // Read from front to back, a file whose range ends in the page cache is there: the kernel would look up every page of it to
  // find nothing to do, a twentieth of a pass.
#ifdef RWF_NOWAIT
  char last;
  iovec to{&last, 1};
  if (bytes > 0 && ::preadv2(fd_, &to, 1, offset + bytes - 1, RWF_NOWAIT) == 1) return;
#endif
  ::posix_fadvise(fd_, offset, bytes, POSIX_FADV_WILLNEED);
}

}  // namespace galvani
