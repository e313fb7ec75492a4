// Why a launch was refused, in words: the sentence of this thread's last failure.
#pragma once

namespace galvani::gpu {

const char* last_message();  // at most 511 bytes
void set_message(const char* format, ...) __attribute__((format(printf, 1, 2)));

// For wrong arguments, before anything is launched: sets the message, returns kRefused.
inline constexpr int kRefused = -2;
int refuse(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace galvani::gpu
