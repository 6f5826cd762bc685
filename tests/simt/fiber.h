// A stack, and switching to it and back. Sanitizers are told.
#pragma once
#include <cstddef>

namespace simt {

void pause_fiber();                // back to resume(); returns when the fiber is resumed
[[noreturn]] void finish_fiber();  // back to resume() for good

class Fiber {
 public:
  static constexpr size_t kStackBytes = 128 << 10;

  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;

  // The next resume() enters main(), which must end in finish_fiber().
  void start(void (*main)());
  // Runs the fiber until it calls pause_fiber() or finish_fiber().
  void resume();

 private:
  friend void pause_fiber();
  friend void finish_fiber();
  static void enter();
  static void run();
  void leave(bool for_good);
  static constexpr size_t kGuardBytes = 4096;  // below the stack: an overflow faults there
  char* memory_;
  void (*main_)() = nullptr;
  void* detector_ = nullptr;  // ThreadSanitizer's fiber
  bool entered_ = false, has_base_ = false;
  void* base_[5] = {};  // __builtin_setjmp: where main() is called from
  void* self_[5] = {};
  void* caller_[5] = {};
};

// Order for ThreadSanitizer: what happened before release(p) is seen after acquire(p). Nothing elsewhere.
void release_order(void* point);
void acquire_order(void* point);

}  // namespace simt
