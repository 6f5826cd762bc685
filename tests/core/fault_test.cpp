#include "core/fault.h"

#include "core/error.h"
#include "support/catch.h"

#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <string>

using namespace sffn;

namespace {

// SFFN_FAULT for the time of one test.
struct Variable {
  explicit Variable(const std::string& value) { setenv("SFFN_FAULT", value.c_str(), 1); }
  ~Variable() {
    unsetenv("SFFN_FAULT");
    enable_fault_injection(0);
  }
};

// The wait status of a child that reaches the point once; 0 when nothing happens.
int status_of(const std::string& action) {
  const Variable variable("here:0:7:" + action);
  const pid_t child = fork();
  if (child == 0) {
    enable_fault_injection(0);
    std::signal(SIGABRT, SIG_DFL);
    fault_point("here", 7);
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, WUNTRACED);
  if (WIFSTOPPED(status)) {
    kill(child, SIGKILL);
    int ended = 0;
    waitpid(child, &ended, 0);
  }
  return status;
}

std::string error_at(const char* name, int64_t step) {
  try {
    fault_point(name, step, "/x/file");
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}

}  // namespace

// Kills: reading the variable without the flag.
TEST_CASE("SFFN_FAULT is ignored unless fault injection was enabled", "[fault]") {
  setenv("SFFN_FAULT", "here:0:*:throw", 1);
  CHECK(error_at("here", 1).empty());
  setenv("SFFN_FAULT", "nonsense", 1);
  CHECK(error_at("here", 1).empty());
  unsetenv("SFFN_FAULT");
}

// Kills: a rank, step or name that is not compared; a fault of one step that strikes twice.
TEST_CASE("a fault strikes its point, rank and step, and once", "[fault]") {
  const Variable variable("here:1:7:enospc");
  enable_fault_injection(0);
  CHECK(error_at("here", 7).empty());
  enable_fault_injection(1);
  CHECK(error_at("there", 7).empty());
  CHECK(error_at("here", 6).empty());
  CHECK(error_at("here", 7) == "/x/file: cannot write: No space left on device (injected)");
  CHECK(error_at("here", 7).empty());
}

// Kills: a wildcard that stands for one step only.
TEST_CASE("a fault at every step strikes every time", "[fault]") {
  const Variable variable("here:*:*:eio");
  enable_fault_injection(5);
  for (int step = 0; step < 3; ++step) CHECK(error_at("here", step).find("Input/output error") != std::string::npos);
}

// Kills: two actions exchanged, a delay that does not wait.
TEST_CASE("each action does what it says", "[fault]") {
  const int killed = status_of("kill"), aborted = status_of("abort"), left = status_of("exit"),
            stopped = status_of("stop");
  CHECK((WIFSIGNALED(killed) && WTERMSIG(killed) == SIGKILL));
  CHECK((WIFSIGNALED(aborted) && WTERMSIG(aborted) == SIGABRT));
  CHECK((WIFEXITED(left) && WEXITSTATUS(left) == 5));
  CHECK((WIFSTOPPED(stopped) && WSTOPSIG(stopped) == SIGSTOP));
  {
    const Variable variable("here:0:7:throw");
    enable_fault_injection(0);
    CHECK(error_at("here", 7).find("injected at fault point here") != std::string::npos);
  }
  const Variable variable("here:0:7:delay:60");
  enable_fault_injection(0);
  const auto start = std::chrono::steady_clock::now();
  fault_point("here", 7);
  CHECK(std::chrono::steady_clock::now() - start >= std::chrono::milliseconds(60));
}

// Kills: a misspelt fault that lets a fault test pass because nothing happens.
TEST_CASE("a malformed SFFN_FAULT is a usage error", "[fault]") {
  for (const char* text : {"here", "here:0:7", "here:0:7:explode", "here:x:7:kill", "here:0:-1:kill", ":0:7:kill",
                           "here:0:7:delay:x", "here:0:7:delay:1:2"}) {
    const Variable variable(text);
    CHECK_THROWS_AS(enable_fault_injection(0), UsageError);
    unsetenv("SFFN_FAULT");
  }
}
