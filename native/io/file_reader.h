// Reading a file by offset instead of by mapping: memory stays the caller's buffers, and a disk that fails or a file
// that shrinks is an error with a name where a mapping would end the process (SIGBUS).
#pragma once
#include <cstdint>
#include <string>

namespace galvani {

class FileReader {
 public:
  // FILE_NOT_FOUND, IO.
  explicit FileReader(std::string path);
  ~FileReader();
  FileReader(const FileReader&) = delete;
  FileReader& operator=(const FileReader&) = delete;

  // Exactly `bytes` at `offset`; from any thread. IO; BAD_FILE when the file ends before.
  void read(void* to, int64_t bytes, int64_t offset) const;
  // A hint, never an error: will be read soon. Nothing where the range's end is in memory already.
  void will_need(int64_t offset, int64_t bytes) const;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  int fd_;
};

}  // namespace galvani
