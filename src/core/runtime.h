// What a device offers: memory and ordered queues. The CPU and meta runtimes live in core; kernels/cuda/runtime.cpp
// implements the interface for GPUs, and main hands one in. The step and the model never ask which one it is.
#pragma once
#include "core/device.h"

#include <cstddef>
#include <memory>
#include <optional>

namespace sffn {

// A backend's own queue: cudaStream_t, library handles and workspace. The CPU has none.
struct NativeStream {
  virtual ~NativeStream() = default;
};

class DeviceRuntime {
 public:
  virtual ~DeviceRuntime() = default;
  virtual Device device() const = 0;
  // At least `bytes` bytes aligned to 64, zero; throws RunError naming the size when there is not enough.
  virtual void* allocate(size_t bytes) = 0;
  virtual void release(void* data, size_t bytes) = 0;
  // Bytes that can still be allocated; nothing where a system decides that as memory is touched.
  virtual std::optional<size_t> free_bytes() { return std::nullopt; }
  virtual std::unique_ptr<NativeStream> make_stream() = 0;
  // Copies between this device and the host, ordered on the stream; the host side must stay valid until synchronize.
  virtual void copy_to_device(NativeStream*, void* device, const void* host, size_t bytes) = 0;
  virtual void copy_to_host(NativeStream*, void* host, const void* device, size_t bytes) = 0;
  virtual void synchronize(NativeStream*) = 0;
};

DeviceRuntime& cpu_runtime();
DeviceRuntime& meta_runtime();

}  // namespace sffn
