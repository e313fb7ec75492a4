// The one error type of the native side. A code from the closed set in lib/errors.ts and a message that says
// what, where, expected and got; bindings/task.h is the one place that turns it into a JavaScript error.
#pragma once
#include <stdexcept>
#include <string>
#include <utility>

namespace galvani {

enum class Code {
  kBadArgument,
  kBadConfig,
  kBadFile,
  kFileNotFound,
  kShapeMismatch,
  kTensorMissing,
  kUnsupported,
  kAborted,
  kClosed,
  kOutOfMemory,
  kIo,
  kInternal,
};

// The spelling that lib/errors.ts knows, e.g. "BAD_FILE".
const char* code_name(Code code);

class Error : public std::runtime_error {
 public:
  Error(Code code, const std::string& message) : std::runtime_error(message), code_(code) {}
  Code code() const { return code_; }

 private:
  Code code_;
};

// A broken invariant of ours, never a user's mistake.
#define GALVANI_CHECK(condition)                                                                              \
  do {                                                                                                        \
    if (!(condition))                                                                                         \
      throw ::galvani::Error(::galvani::Code::kInternal,                                                      \
                             std::string(__FILE__) + ":" + std::to_string(__LINE__) + ": " #condition);       \
  } while (0)

}  // namespace galvani
