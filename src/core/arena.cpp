#include "core/arena.h"

#include <algorithm>
#include <cstring>

namespace sffn {
namespace {

constexpr size_t kAlignment = 64;  // a cache line, and the widest vector load

size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

Arena::Arena(DeviceRuntime& runtime, std::string name, size_t capacity)
    : buffer_(runtime, capacity), name_(std::move(name)), capacity_(capacity), device_(runtime.device()) {}

Tensor Arena::allocate(Shape shape, DType dtype, std::string_view what) {
  const size_t bytes = aligned(static_cast<size_t>(shape.numel()) * size_of(dtype));
  if (bytes > capacity_ - used_) {
    std::vector<Block> largest = live_;
    std::sort(largest.begin(), largest.end(), [](const Block& a, const Block& b) { return a.bytes > b.bytes; });
    std::string list;
    for (size_t i = 0; i < std::min<size_t>(largest.size(), 5); ++i) {
      list += cat(i ? ", " : "", largest[i].what, " ", largest[i].bytes);
    }
    throw RunError("arena " + name_, cat(what, " ", shape.str(), " of ", name_of(dtype), " needs ", bytes, " bytes, ",
                                         capacity_ - used_, " of ", capacity_, " are free; largest live: ", list));
  }
  Tensor tensor(static_cast<std::byte*>(buffer_.data()) + used_, shape, dtype, device_);
  live_.push_back({std::string(what), used_, bytes});
  used_ += bytes;
  high_water_ = std::max(high_water_, used_);
  return tensor;
}

void Arena::release(Mark mark) {
  SFFN_CHECK(mark.offset <= used_ && mark.blocks <= live_.size(), "arena ", name_, ": released out of order");
  used_ = mark.offset;
  live_.resize(mark.blocks);
}

void Arena::poison() {
  SFFN_CHECK(device_.kind == Device::Kind::kCpu, "only CPU memory can be poisoned");
  if (capacity_ > used_) std::memset(static_cast<std::byte*>(buffer_.data()) + used_, 0xff, capacity_ - used_);
}

}  // namespace sffn
