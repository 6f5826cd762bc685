// Checks of numbers on the command line.
#pragma once
#include "core/error.h"

#include <CLI/CLI.hpp>

#include <charconv>
#include <string>

namespace sffn {

inline std::string require_number(const std::string& text, double least, bool above, const char* expected) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = error == std::errc() && end == text.data() + text.size();
  return whole && (above ? value > least : value >= least) ? "" : cat("is ", text, "; ", expected, " is expected");
}

inline CLI::Validator positive() {
  return {[](const std::string& text) { return require_number(text, 0, true, "a number above 0"); }, ""};
}
inline CLI::Validator not_below_zero() {
  return {[](const std::string& text) { return require_number(text, 0, false, "0 or more"); }, ""};
}

}  // namespace sffn
