#include "tools/terminal_text.h"

#include "data/utf8.h"

#include <cstdio>

namespace sffn {
namespace {

// Bytes of the character that `first` begins; 1 for a byte that begins none.
size_t announced_length(unsigned char first) {
  if (first >= 0xf0 && first <= 0xf4) return 4;
  if (first >= 0xe0 && first < 0xf0) return 3;
  return first >= 0xc2 && first < 0xe0 ? 2 : 1;
}

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

// Could become a character when more bytes follow.
bool incomplete(std::string_view text) {
  if (text.size() >= announced_length(static_cast<unsigned char>(text[0]))) return false;
  for (const char c : text.substr(1)) {
    if (!is_continuation(c)) return false;
  }
  return true;
}

bool is_control(std::string_view character) {
  const auto first = static_cast<unsigned char>(character[0]);
  if (character == "\n" || character == "\t") return false;
  const bool c1 = first == 0xc2 && static_cast<unsigned char>(character[1]) < 0xa0;  // U+0080 ... U+009F
  return first < 0x20 || first == 0x7f || c1;
}

void write_escaped(std::string_view bytes) {
  for (const char c : bytes) std::printf("\\x%02x", static_cast<unsigned char>(c));
}

}  // namespace

void TerminalText::add(std::string_view text) {
  waiting_ += text;
  std::string_view rest = waiting_;
  while (!rest.empty() && !incomplete(rest)) {
    const size_t length = announced_length(static_cast<unsigned char>(rest[0]));
    if (valid_utf8_prefix(rest.substr(0, length)) != length) {
      write_escaped(rest.substr(0, 1));
      rest.remove_prefix(1);
      continue;
    }
    const std::string_view character = rest.substr(0, length);
    if (is_control(character)) {
      write_escaped(character);
    } else {
      std::fwrite(character.data(), 1, length, stdout);
    }
    rest.remove_prefix(length);
  }
  waiting_ = std::string(rest);
  std::fflush(stdout);
}

void TerminalText::end() {
  write_escaped(waiting_);
  waiting_.clear();
  std::printf("\n");
}

}  // namespace sffn
