#include "io/json.h"

#include <limits>
#include <unordered_set>

#include "core/status.h"

namespace galvani {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

void append_utf8(std::string& out, uint32_t point) {
  if (point < 0x80) {
    out += static_cast<char>(point);
  } else if (point < 0x800) {
    out += static_cast<char>(0xc0 | (point >> 6));
    out += static_cast<char>(0x80 | (point & 63));
  } else if (point < 0x10000) {
    out += static_cast<char>(0xe0 | (point >> 12));
    out += static_cast<char>(0x80 | ((point >> 6) & 63));
    out += static_cast<char>(0x80 | (point & 63));
  } else {
    out += static_cast<char>(0xf0 | (point >> 18));
    out += static_cast<char>(0x80 | ((point >> 12) & 63));
    out += static_cast<char>(0x80 | ((point >> 6) & 63));
    out += static_cast<char>(0x80 | (point & 63));
  }
}

}  // namespace

bool is_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const int more = lead < 0x80 ? 0 : lead >= 0xc2 && lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
    if (more == 0) {
      ++i;
      continue;
    }
    if (lead < 0xc2 || lead > 0xf4 || text.size() - i <= static_cast<size_t>(more)) return false;
    uint32_t point = lead & (0x3f >> more);
    for (int k = 1; k <= more; ++k) {
      const auto next = static_cast<unsigned char>(text[i + static_cast<size_t>(k)]);
      if ((next & 0xc0) != 0x80) return false;
      point = (point << 6) | (next & 63);
    }
    if (more == 2 && (point < 0x800 || (point >= 0xd800 && point < 0xe000))) return false;
    if (more == 3 && (point < 0x10000 || point > 0x10ffff)) return false;
    i += static_cast<size_t>(more) + 1;
  }
  return true;
}

std::string json_string(std::string_view text) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      out += "\\u00";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string quoted(std::string_view name) {
  constexpr size_t kShown = 160;
  if (name.size() <= kShown) return json_string(name);
  size_t cut = kShown;
  while (cut > 0 && (static_cast<unsigned char>(name[cut]) & 0xc0) == 0x80) --cut;  // not inside a code point
  return json_string(name.substr(0, cut)) + "… (" + std::to_string(name.size()) + " bytes)";
}

JsonReader::JsonReader(std::string_view text, std::string where) : text_(text), where_(std::move(where)) {
  if (!is_utf8(text_)) throw Error(Code::kBadFile, where_ + ": JSON is not valid UTF-8");
}

void JsonReader::fail(const std::string& message) const {
  throw Error(Code::kBadFile, where_ + ": JSON byte " + std::to_string(at_) + ": " + message);
}

void JsonReader::white() {
  while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t'))
    ++at_;
}

bool JsonReader::take(char c) {
  if (at_ >= text_.size() || text_[at_] != c) return false;
  ++at_;
  return true;
}

void JsonReader::expect(char c, const char* what) {
  white();
  if (take(c)) return;
  fail(std::string("expected ") + what +
       (at_ < text_.size() ? ", got " + quoted(text_.substr(at_, 1)) : ", got the end"));
}

void JsonReader::enter() {
  if (++depth_ > kMaxDepth) fail("nested deeper than " + std::to_string(kMaxDepth));
}

void JsonReader::object(const std::function<void(const std::string&)>& member) {
  expect('{', "an object");
  enter();
  std::unordered_set<std::string> seen;
  white();
  if (!take('}')) {
    do {
      std::string key = string();
      expect(':', "':'");
      const auto [entry, fresh] = seen.insert(std::move(key));
      if (!fresh) fail("duplicate key " + quoted(*entry));
      member(*entry);
      white();
    } while (take(','));
    expect('}', "',' or '}'");
  }
  --depth_;
}

void JsonReader::array(const std::function<void()>& element) {
  expect('[', "an array");
  enter();
  white();
  if (!take(']')) {
    do {
      element();
      white();
    } while (take(','));
    expect(']', "',' or ']'");
  }
  --depth_;
}

uint32_t JsonReader::hex4() {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i) {
    const char c = at_ < text_.size() ? text_[at_] : '\0';
    const int digit = is_digit(c)            ? c - '0'
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                             : -1;
    if (digit < 0) fail("bad \\u escape");
    value = value * 16 + static_cast<uint32_t>(digit);
    ++at_;
  }
  return value;
}

std::string JsonReader::string() {
  expect('"', "a string");
  std::string out;
  for (;;) {
    if (at_ >= text_.size()) fail("string without end");
    const char c = text_[at_++];
    if (c == '"') return out;
    if (static_cast<unsigned char>(c) < 0x20) fail("control character in a string");
    if (c != '\\') {
      out += c;
      continue;
    }
    const char escape = at_ < text_.size() ? text_[at_++] : '\0';
    switch (escape) {
      case '"':
      case '\\':
      case '/':
        out += escape;
        break;
      case 'b':
        out += '\b';
        break;
      case 'f':
        out += '\f';
        break;
      case 'n':
        out += '\n';
        break;
      case 'r':
        out += '\r';
        break;
      case 't':
        out += '\t';
        break;
      case 'u': {
        uint32_t point = hex4();
        if (point >= 0xdc00 && point < 0xe000) fail("lone surrogate");
        if (point >= 0xd800 && point < 0xdc00) {
          if (!take('\\') || !take('u')) fail("lone surrogate");
          const uint32_t low = hex4();
          if (low < 0xdc00 || low >= 0xe000) fail("lone surrogate");
          point = 0x10000 + ((point - 0xd800) << 10) + (low - 0xdc00);
        }
        append_utf8(out, point);
        break;
      }
      default:
        fail("bad escape");
    }
  }
}

int64_t JsonReader::size() {
  white();
  const size_t begin = at_;
  int64_t value = 0;
  while (at_ < text_.size() && is_digit(text_[at_])) {
    const int digit = text_[at_] - '0';
    if (value > (std::numeric_limits<int64_t>::max() - digit) / 10) fail("integer beyond 2^63");
    value = value * 10 + digit;
    ++at_;
  }
  const bool more = at_ < text_.size() && (text_[at_] == '.' || text_[at_] == 'e' || text_[at_] == 'E');
  if (at_ == begin || more || (text_[begin] == '0' && at_ - begin > 1)) fail("expected a non-negative integer");
  return value;
}

void JsonReader::number() {
  auto digits = [&] {
    if (at_ >= text_.size() || !is_digit(text_[at_])) fail("bad number");
    while (at_ < text_.size() && is_digit(text_[at_])) ++at_;
  };
  take('-');
  if (!take('0')) digits();
  if (take('.')) digits();
  if (take('e') || take('E')) {
    if (!take('+')) take('-');
    digits();
  }
}

void JsonReader::skip() {
  white();
  const char c = at_ < text_.size() ? text_[at_] : '\0';
  if (c == '{') return object([&](const std::string&) { skip(); });
  if (c == '[') return array([&] { skip(); });
  if (c == '"') return static_cast<void>(string());
  if (c == '-' || is_digit(c)) return number();
  for (const std::string_view word : {"true", "false", "null"}) {
    if (text_.substr(at_, word.size()) != word) continue;
    at_ += word.size();
    return;
  }
  fail("expected a value");
}

void JsonReader::finish() {
  white();
  if (at_ != text_.size()) fail("text after the end of the value");
}

}  // namespace galvani
