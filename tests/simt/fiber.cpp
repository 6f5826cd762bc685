// Compiled without instrumentation, so that sanitizers see what kernels do and nothing of how they are switched.
#include "simt/fiber.h"

#include "simt/executor.h"
#include <sys/mman.h>
#include <ucontext.h>

#if SIMT_TSAN
#include <sanitizer/tsan_interface.h>
#elif SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace simt {
namespace {

// Of the operating system's thread that runs fibers.
thread_local Fiber* running = nullptr;
thread_local ucontext_t start_context;
[[maybe_unused]] thread_local const void* scheduler_stack = nullptr;
[[maybe_unused]] thread_local size_t scheduler_stack_bytes = 0;
[[maybe_unused]] thread_local void* scheduler_detector = nullptr;

// A function of its own: what is saved and gone to in one function is taken for a loop.
__attribute__((noipa)) void go(void** to) { __builtin_longjmp(to, 1); }

// Saves this place in `from` and goes on at `to`. Registers are not kept over it, so it stands in no other function.
__attribute__((noipa)) void jump(void** from, void** to) {
  if (__builtin_setjmp(from) == 0) go(to);
}

}  // namespace

Fiber::Fiber() {
  void* memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kGuardBytes, PROT_NONE) != 0) throw Error("no memory for fiber stacks");
  memory_ = static_cast<char*>(memory);
#if SIMT_TSAN
  detector_ = __tsan_create_fiber(0);
#endif
}

Fiber::~Fiber() {
#if SIMT_TSAN
  __tsan_destroy_fiber(detector_);
#elif SIMT_ASAN
  __asan_unpoison_memory_region(memory_, kGuardBytes + kStackBytes);
#endif
  munmap(memory_, kGuardBytes + kStackBytes);
}

void Fiber::start(void (*main)()) {
  main_ = main;
  entered_ = false;
#if SIMT_ASAN
  __asan_unpoison_memory_region(memory_ + kGuardBytes, kStackBytes);  // frames that were left for good
#endif
}

// The fiber comes back here for each main(): a new context would ask the kernel twice, for every CUDA thread.
void Fiber::enter() {
  running->has_base_ = true;
  __builtin_setjmp(running->base_);
  run();
}

// The thread-local variables are those of the operating system's thread that resumed it this time.
__attribute__((noipa)) void Fiber::run() {
#if SIMT_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_bytes);
#endif
  running->main_();
}

void Fiber::resume() {
  running = this;
#if SIMT_TSAN
  scheduler_detector = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(detector_, __tsan_switch_to_fiber_no_sync);
#elif SIMT_ASAN
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, memory_ + kGuardBytes, kStackBytes);
#endif
  if (entered_ || has_base_) {
    void** to = entered_ ? self_ : base_;
    entered_ = true;
    jump(caller_, to);
  } else {
    entered_ = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = memory_ + kGuardBytes;
    context.uc_stack.ss_size = kStackBytes;
    context.uc_link = nullptr;
    makecontext(&context, &Fiber::enter, 0);
    if (__builtin_setjmp(caller_) == 0) swapcontext(&start_context, &context);
  }
#if SIMT_ASAN
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

void Fiber::leave([[maybe_unused]] bool for_good) {
#if SIMT_TSAN
  __tsan_switch_to_fiber(scheduler_detector, __tsan_switch_to_fiber_no_sync);
#elif SIMT_ASAN
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fake, scheduler_stack, scheduler_stack_bytes);
#endif
  jump(self_, caller_);
#if SIMT_ASAN
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

void pause_fiber() { running->leave(false); }

void finish_fiber() {
  running->leave(true);
  __builtin_unreachable();
}

void release_order([[maybe_unused]] void* point) {
#if SIMT_TSAN
  __tsan_release(point);
#endif
}

void acquire_order([[maybe_unused]] void* point) {
#if SIMT_TSAN
  __tsan_acquire(point);
#endif
}

}  // namespace simt
