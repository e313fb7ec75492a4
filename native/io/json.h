// A strict pull reader for the JSON of checkpoint files (RFC 8259): the caller says what it expects, everything else
// is an error with the byte offset. No tree is built, so a 100 MB hostile header costs its own size and no more.
// Text must be valid UTF-8; duplicate keys, lone surrogates, trailing text and nesting beyond kMaxDepth are errors.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace galvani {

class JsonReader {
 public:
  static constexpr int kMaxDepth = 64;

  // `where` (a file path) opens every message. Errors are BAD_FILE. `text` must outlive the reader.
  JsonReader(std::string_view text, std::string where);

  // Each call reads one value at the current position; the callback must read exactly one value per call.
  void object(const std::function<void(const std::string& key)>& member);
  void array(const std::function<void()>& element);
  std::string string();
  // A non-negative integer written without sign, fraction or exponent that fits int64.
  int64_t size();
  void skip();
  // Nothing but white space may follow.
  void finish();

  [[noreturn]] void fail(const std::string& message) const;

 private:
  void white();
  bool take(char c);
  void expect(char c, const char* what);
  uint32_t hex4();
  void number();
  void enter();

  std::string_view text_;
  std::string where_;
  size_t at_ = 0;
  int depth_ = 0;
};

bool is_utf8(std::string_view text);
// A name for an error message: control characters escaped, long names shortened, in double quotes.
std::string quoted(std::string_view name);
// The name as a JSON string literal.
std::string json_string(std::string_view text);

}  // namespace galvani
