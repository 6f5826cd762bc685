// Console and file log. Lines meant for scripts (reliability: "saved step N", "fresh start", ...) go through here too.
#pragma once
#include "core/error.h"

#include <cstdint>
#include <string>
#include <vector>

namespace sffn::log {

// What stdout is for.
enum class Output : uint8_t {
  kLines,   // people: information
  kResult,  // a result alone: information goes to stderr
  kJson,  // one JSON object: no information; warnings wait, for take_warnings() or for the error that ends the process
};

// Call once a process. Rank 0 prints information; other ranks print warnings and errors only, marked "[rank N]", on
// stderr as everywhere.
void start(int rank, Output output = Output::kLines);
// What is shown from now on waits for a file that is not known yet, and goes there first.
void keep_for_file();
// Everything rank 0 shows also goes to this file from now on. A file that cannot be written is warned of once.
void also_to_file(const std::string& path);
// The warnings that were not shown. Once.
std::vector<std::string> take_warnings();

void info_line(const std::string& text);
void warn_line(const std::string& text);
void error_line(const std::string& text);  // "error: TEXT"

template <class... Args>
void info(const Args&... args) {
  info_line(cat(args...));
}
template <class... Args>
void warn(const Args&... args) {
  warn_line(cat(args...));
}
template <class... Args>
void error(const Args&... args) {
  error_line(cat(args...));
}

}  // namespace sffn::log
