// Checks of numbers on the command line.
#pragma once
#include "core/error.h"

#include <CLI/CLI.hpp>

#include <charconv>
#include <string>

namespace sffn {

// Takes numbers with good(number) alone.
inline CLI::Validator number_where(bool (*good)(double), const char* expected) {
  const auto wrong = [=](const std::string& text) -> std::string {
    double value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool number = error == std::errc() && end == text.data() + text.size();
    return number && good(value) ? "" : cat("is ", text, "; ", expected, " is expected");
  };
  return {wrong, ""};
}
inline CLI::Validator positive() {
  return number_where([](double x) { return x > 0; }, "a number above 0");
}
inline CLI::Validator not_below_zero() {
  return number_where([](double x) { return x >= 0; }, "0 or more");
}

}  // namespace sffn
