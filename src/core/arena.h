#pragma once
#include "core/buffer.h"
#include "core/tensor.h"

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace sffn {

// Last-in-first-out allocator over one buffer. The model runs once on the meta device to learn the high-water mark;
// an arena of exactly that capacity then serves every step, and no tensor memory is allocated inside a step.
class Arena {
 public:
  struct Mark {
    size_t offset;
    size_t blocks;
  };
  struct Block {
    std::string what;
    size_t offset, bytes;
  };

  Arena(DeviceRuntime& runtime, std::string name, size_t capacity);

  // Not initialised. Throws RunError naming the arena, what was asked for and the largest live blocks.
  Tensor allocate(Shape shape, DType dtype, std::string_view what);
  Mark mark() const { return {used_, live_.size()}; }
  void release(Mark mark);
  void reset() { release({0, 0}); }

  size_t used() const { return used_; }
  size_t capacity() const { return capacity_; }
  size_t high_water() const { return high_water_; }
  const std::vector<Block>& live() const { return live_; }
  // Fills everything not in use with NaN patterns (CPU only): a test that reads unwritten memory then fails.
  void poison();

 private:
  Buffer buffer_;
  std::string name_;
  size_t capacity_;
  size_t used_ = 0;
  size_t high_water_ = 0;
  std::vector<Block> live_;
  Device device_;
};

// Gives back on destruction what was allocated since construction.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.mark()) {}
  ~ArenaScope() { arena_.release(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  Arena::Mark mark_;
};

}  // namespace sffn
