// Console and file log. Lines meant for scripts (reliability: "saved step N", "fresh start", ...) go through here too.
#pragma once
#include "core/error.h"

#include <string>

namespace sffn::log {

// Call once a process. Rank 0 prints information; other ranks print warnings and errors only, marked "[rank N]".
// `to_stderr` keeps stdout clean for --json; `quiet` drops information (warnings stay).
void start(int rank, bool to_stderr = false, bool quiet = false);
// Everything rank 0 shows also goes to this file from now on. A file that cannot be written is warned of once.
void also_to_file(const std::string& path);

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
