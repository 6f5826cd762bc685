// Errors name the place: "PLACE: what is wrong; what would be right". The exit code of a process is that of its error.
#pragma once
#include <sstream>
#include <stdexcept>
#include <string>

namespace sffn {

enum class ExitCode : int { kDone = 0, kRunFailed = 1, kUsage = 2, kDamaged = 3 };

class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& place, const std::string& what)
      : std::runtime_error(place.empty() ? what : place + ": " + what), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

// A run that failed: disk full, a rank died, numbers that are not finite, a broken invariant. Exit code 1.
struct RunError : Error {
  RunError(const std::string& place, const std::string& what) : Error(ExitCode::kRunFailed, place, what) {}
};
// Bad usage or configuration, or a configuration that does not fit the data or the checkpoint. Exit code 2.
struct UsageError : Error {
  UsageError(const std::string& place, const std::string& what) : Error(ExitCode::kUsage, place, what) {}
};
// Damaged or missing data or checkpoint. Exit code 3.
struct DamagedError : Error {
  DamagedError(const std::string& place, const std::string& what) : Error(ExitCode::kDamaged, place, what) {}
};

// Concatenates its arguments as `<<` prints them.
template <class... Args>
std::string cat(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

// An invariant at an API edge, always on: throws RunError "FUNCTION: message".
#define SFFN_CHECK(condition, ...)                                                \
  do {                                                                            \
    if (!(condition)) throw ::sffn::RunError(__func__, ::sffn::cat(__VA_ARGS__)); \
  } while (false)

}  // namespace sffn
