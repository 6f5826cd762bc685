#pragma once
#include <cstddef>
#include <memory>
#include <new>

namespace sffn::cpu {

// Memory that only grows, aligned to a cache line, kept by its owner (one thread) between calls.
class Scratch {
 public:
  // The same bytes until more are asked for; contents are not kept then.
  void* get(size_t bytes) {
    if (bytes > capacity_) {
      memory_.reset();
      memory_.reset(::operator new(bytes, kAlignment));
      capacity_ = bytes;
    }
    return memory_.get();
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Release {
    void operator()(void* memory) const { ::operator delete(memory, kAlignment); }
  };
  std::unique_ptr<void, Release> memory_;
  size_t capacity_ = 0;
};

}  // namespace sffn::cpu
