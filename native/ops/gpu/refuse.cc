#include "ops/gpu/refuse.h"

#include <cstdarg>
#include <cstdio>

namespace galvani::gpu {
namespace {
thread_local char message[1024] = "";
}

const char* last_message() { return message; }

void set_message(const char* format, ...) {
  char text[sizeof message];  // an argument may be the old message
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  __builtin_memcpy(message, text, sizeof message);
}

int refuse(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  return kRefused;
}

}  // namespace galvani::gpu
