// What a device offers: memory and ordered queues. The CPU and meta runtimes live in core; kernels/cuda/runtime.cpp
// implements the interface for GPUs, and main hands one in. The step and the model never ask which one it is.
#pragma once
#include "core/device.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace sffn {

// A backend's own queue: cudaStream_t, library handles and workspace. The CPU has none.
struct NativeStream {
  virtual ~NativeStream() = default;
};

// Points in time between the work of a stream.
struct StreamMarks {
  virtual ~StreamMarks() = default;
  virtual void mark() = 0;
  // From each mark to the next; waits for the last.
  virtual std::vector<double> seconds() = 0;
};

// What launches of one name and equal work took together.
struct KernelTime {
  std::string name;
  double bytes = 0, flops = 0;  // of one launch: what must move and be multiplied at least
  bool tensor_cores = false;    // which may do the multiplying
  int64_t launches = 0;
  double seconds = 0;
};

class DeviceRuntime {
 public:
  virtual ~DeviceRuntime() = default;
  virtual Device device() const = 0;
  // What the device calls itself: "NVIDIA H200". Bytes of the cache between it and its memory; 0: not told.
  virtual std::string name() const { return device().str(); }
  virtual size_t cache_bytes() const { return 0; }
  // At least `bytes` bytes aligned to 64, zero; throws RunError naming the size when there is not enough.
  virtual void* allocate(size_t bytes) = 0;
  virtual void release(void* data, size_t bytes) = 0;
  virtual std::unique_ptr<NativeStream> make_stream() = 0;
  // Copies between this device and the host, ordered on the stream; the host side must stay valid until synchronize.
  virtual void copy_to_device(NativeStream*, void* device, const void* host, size_t bytes) = 0;
  virtual void copy_to_host(NativeStream*, void* host, const void* device, size_t bytes) = 0;
  virtual void synchronize(NativeStream*) = 0;

  // By the host's clock, for devices whose work is done when an op returns.
  virtual std::unique_ptr<StreamMarks> make_marks(NativeStream*);
  // Times each kernel that the stream runs from here on, until the times are taken. Devices without kernels have none.
  virtual void start_profile(NativeStream*) {}
  virtual std::vector<KernelTime> take_profile(NativeStream*) { return {}; }
  // Names what follows, up to its pop, for profilers that watch the process. index -1: none. Ranges nest.
  virtual void push_range(const char* /*name*/, int64_t /*index*/) {}
  virtual void pop_range() {}
};

DeviceRuntime& cpu_runtime();
DeviceRuntime& meta_runtime();

}  // namespace sffn
