#include "core/signals.h"

#include "core/error.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>

namespace sffn::signals {
namespace {

// A handler has no other place to write to.
std::atomic<int> first_stop = 0;
std::atomic<int> interrupts = 0;  // INT and TERM seen
std::atomic<bool> save = false;
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);

void on_stop(int signal) {
  if ((signal == SIGINT || signal == SIGTERM) && interrupts.fetch_add(1) > 0) _exit(128 + signal);
  int none = 0;
  first_stop.compare_exchange_strong(none, signal);
}

void on_save(int) { save = true; }

void handle(int signal, void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  if (sigaction(signal, &action, nullptr) != 0) {
    throw RunError("signals", cat("no handler for ", name(signal), ": ", std::strerror(errno)));
  }
}

// Handlers run on a stack of their own: the code that oneDNN generates for matrix products holds other addresses than
// the stack's in the stack pointer, and a signal frame written there would land in tensors or in the heap. The kernel
// gives signals of the process to the main thread, which installs this.
void use_own_stack() {
  static std::array<std::byte, 1 << 16> memory;
  stack_t stack = {};
  stack.ss_sp = memory.data();
  stack.ss_size = memory.size();
  if (sigaltstack(&stack, nullptr) != 0) throw RunError("signals", cat("no stack: ", std::strerror(errno)));
}

}  // namespace

void install() {
  use_own_stack();
  for (const int signal : kStopSignals) handle(signal, on_stop);
  handle(SIGUSR2, on_save);
}

int stop_signal() { return first_stop; }

std::string name(int signal) {
  switch (signal) {
    case SIGTERM:
      return "TERM";
    case SIGINT:
      return "INT";
    case SIGHUP:
      return "HUP";
    case SIGUSR1:
      return "USR1";
    case SIGUSR2:
      return "USR2";
    default:
      return cat("signal ", signal);
  }
}

bool take_save_request() { return save.exchange(false); }

}  // namespace sffn::signals
