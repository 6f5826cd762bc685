#include "core/fault.h"

#include "core/error.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace sffn {
namespace {

constexpr std::array<std::string_view, 8> kActions{"kill", "abort", "throw", "exit", "stop", "delay", "enospc", "eio"};

struct Fault {
  std::string name, action;
  std::optional<int64_t> step;
  int64_t milliseconds = 0;
  bool happened = false;
};

std::mutex guard;
Fault armed;

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> fields{""};
  for (const char c : text) {
    if (c == ':')
      fields.emplace_back();
    else
      fields.back() += c;
  }
  return fields;
}

std::optional<int64_t> natural(const std::string& text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return {};
  return value;
}

[[noreturn]] void fail_write(std::string_view place, int error) {
  throw RunError(std::string(place), cat("cannot write: ", std::strerror(error), " (injected)"));
}

}  // namespace

namespace detail {

std::atomic<bool> fault_is_armed{false};

void fault_point_reached(std::string_view name, int64_t step, std::string_view place) {
  Fault fault;
  {
    const std::lock_guard<std::mutex> lock(guard);
    if (name != armed.name || (armed.step && (*armed.step != step || armed.happened))) return;
    armed.happened = true;
    fault = armed;
  }
  if (fault.action == "kill") raise(SIGKILL);
  if (fault.action == "abort") std::abort();
  if (fault.action == "exit") _exit(5);
  if (fault.action == "stop") raise(SIGSTOP);
  if (fault.action == "delay") std::this_thread::sleep_for(std::chrono::milliseconds(fault.milliseconds));
  if (fault.action == "throw") throw std::runtime_error("injected at fault point " + fault.name);
  if (fault.action == "enospc") fail_write(place, ENOSPC);
  if (fault.action == "eio") fail_write(place, EIO);
}

}  // namespace detail

void enable_fault_injection(int rank) {
  detail::fault_is_armed = false;
  const char* text = std::getenv("SFFN_FAULT");
  if (text == nullptr || *text == '\0') return;
  const std::vector<std::string> fields = split(text);
  const auto is_wild_or_natural = [](const std::string& s) { return s == "*" || natural(s); };
  const auto fail = [&] {
    throw UsageError("SFFN_FAULT", cat("is \"", text, "\"; NAME:RANK:STEP:ACTION[:MS] is expected"));
  };
  if (fields.size() < 4 || fields.size() > 5 || fields[0].empty() || !is_wild_or_natural(fields[1]) ||
      !is_wild_or_natural(fields[2])) {
    fail();
  }
  const bool known = std::find(kActions.begin(), kActions.end(), fields[3]) != kActions.end();
  const std::optional<int64_t> milliseconds = fields.size() == 5 ? natural(fields[4]) : 0;
  if (!known || !milliseconds) fail();
  if (fields[1] != "*" && natural(fields[1]) != rank) return;
  const std::lock_guard<std::mutex> lock(guard);
  armed = {fields[0], fields[3], natural(fields[2]), *milliseconds, false};
  detail::fault_is_armed = true;
}

}  // namespace sffn
