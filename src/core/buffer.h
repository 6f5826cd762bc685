#pragma once
#include "core/runtime.h"
#include "core/tensor.h"

#include <cstddef>
#include <string>
#include <utility>

namespace sffn {

// Owns memory of one device, zero when new.
class Buffer {
 public:
  Buffer() = default;
  Buffer(DeviceRuntime& runtime, size_t bytes) : runtime_(&runtime), data_(runtime.allocate(bytes)), bytes_(bytes) {}
  Buffer(DeviceRuntime& runtime, Shape shape, DType dtype)
      : Buffer(runtime, static_cast<size_t>(shape.numel()) * size_of(dtype)) {}
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer() {
    if (runtime_ != nullptr) runtime_->release(data_, bytes_);
  }

  size_t bytes() const { return bytes_; }
  void* data() const { return data_; }
  Tensor tensor(Shape shape, DType dtype) const {
    SFFN_CHECK(runtime_ != nullptr && static_cast<size_t>(shape.numel()) * size_of(dtype) <= bytes_, "a tensor ",
               shape.str(), " of ", name_of(dtype), " in a buffer of ", bytes_, " bytes");
    return Tensor(data_, shape, dtype, runtime_->device());
  }

 private:
  void swap(Buffer& other) noexcept {
    std::swap(runtime_, other.runtime_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }
  DeviceRuntime* runtime_ = nullptr;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Owns memory of the host for copies to and from a device, zero when new.
class HostBuffer {
 public:
  HostBuffer() = default;
  HostBuffer(DeviceRuntime& runtime, size_t bytes)
      : runtime_(&runtime), data_(runtime.allocate_host(bytes)), bytes_(bytes) {}
  HostBuffer(HostBuffer&& other) noexcept { swap(other); }
  HostBuffer& operator=(HostBuffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~HostBuffer() {
    if (runtime_ != nullptr) runtime_->release_host(data_, bytes_);
  }
  std::byte* data() const { return static_cast<std::byte*>(data_); }

 private:
  void swap(HostBuffer& other) noexcept {
    std::swap(runtime_, other.runtime_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }
  DeviceRuntime* runtime_ = nullptr;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace sffn
