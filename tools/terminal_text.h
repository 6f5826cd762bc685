// Text of any bytes, shown so that a terminal cannot be steered by it: whole UTF-8 characters as they are, control
// characters other than newline and tab, and bytes that are no UTF-8, as \xNN.
#pragma once
#include <string>
#include <string_view>

namespace sffn {

class TerminalText {
 public:
  // Writes to stdout at once all that is whole; the first bytes of a character wait for the rest.
  void add(std::string_view text);
  void end();  // what still waits, then a newline

 private:
  std::string waiting_;
};

}  // namespace sffn
