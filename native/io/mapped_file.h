// A whole file mapped read-only. Pages are loaded when touched and shared with every process that maps the file, so
// opening a checkpoint costs no memory. The file must not be truncated while mapped: touching a page that no longer
// exists is SIGBUS, which no reader of mapped files can turn into an error. Writers of ours rename, never truncate.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace galvani {

class MappedFile {
 public:
  // Errors: FILE_NOT_FOUND, IO (with errno's text; also for anything but a regular file).
  static std::shared_ptr<MappedFile> open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::byte* data() const { return data_; }  // nullptr when the file is empty
  int64_t size() const { return size_; }
  const std::string& path() const { return path_; }

  // Hints for the kernel, never errors: the range will be read soon / will not be read again. Callers give any
  // byte range; will_need widens it to whole pages, done_with narrows it.
  void will_need(int64_t offset, int64_t bytes) const;
  void done_with(int64_t offset, int64_t bytes) const;

 private:
  MappedFile(std::string path, const std::byte* data, int64_t size)
      : path_(std::move(path)), data_(data), size_(size) {}

  std::string path_;
  const std::byte* data_;
  int64_t size_;
};

}  // namespace galvani
