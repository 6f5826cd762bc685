#include "core/signals.h"

#include "support/catch.h"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>

using namespace sffn;

namespace {

// What becomes of a process of its own that runs body after install(): its exit code, or 128 + the signal that ended
// it.
int code_of(const std::function<int()>& body) {
  const pid_t process = fork();
  if (process == 0) {
    signals::install();
    _exit(body());
  }
  int status = 0;
  waitpid(process, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

// Kills: a signal whose default action is left; a flag that the next signal overwrites.
TEST_CASE("a first TERM, INT, HUP or USR1 asks for a stop and is remembered", "[signals]") {
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1}) {
    INFO(signals::name(signal));
    CHECK(code_of([signal] {
            if (signals::stop_requested()) return 1;
            raise(signal);
            raise(SIGUSR1);
            return signals::stop_signal() == signal ? 0 : 2;
          }) == 0);
  }
}

// Kills: counting USR1 or HUP as the first of two.
TEST_CASE("a second INT or TERM leaves at once with its own code", "[signals]") {
  const auto after = [](int first, int second) {
    return code_of([first, second] {
      raise(first);
      raise(second);
      return 0;
    });
  };
  CHECK(after(SIGINT, SIGINT) == 130);
  CHECK(after(SIGTERM, SIGTERM) == 143);
  CHECK(after(SIGTERM, SIGINT) == 130);
  CHECK(after(SIGUSR1, SIGTERM) == 0);
  CHECK(after(SIGHUP, SIGTERM) == 0);
}

// Kills: dying of USR2; taking it for a stop; a request that never ends.
TEST_CASE("USR2 asks for one save and no stop", "[signals]") {
  CHECK(code_of([] {
          if (signals::take_save_request()) return 1;
          raise(SIGUSR2);
          if (signals::stop_requested()) return 2;
          return signals::take_save_request() && !signals::take_save_request() ? 0 : 3;
        }) == 0);
}

// Kills: names that do not fit the log line "signal USR1: saving".
TEST_CASE("signals are named as in the log", "[signals]") {
  CHECK(signals::name(SIGUSR1) == "USR1");
  CHECK(signals::name(SIGTERM) == "TERM");
  CHECK(signals::name(SIGWINCH).find("signal ") == 0);
}

// Kills: a handler on the stack of the interrupted thread, whose stack pointer generated code may use for something
// else.
TEST_CASE("signal handlers run on a stack of their own", "[signals]") {
  CHECK(code_of([] {
          stack_t stack = {};
          if (sigaltstack(nullptr, &stack) != 0 || (stack.ss_flags & SS_DISABLE) != 0) return 1;
          for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2}) {
            struct sigaction action = {};
            if (sigaction(signal, nullptr, &action) != 0 || (action.sa_flags & SA_ONSTACK) == 0) return 2;
          }
          return 0;
        }) == 0);
}
