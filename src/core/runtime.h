// What a device offers: memory and ordered queues. The CPU and meta runtimes live in core; kernels/cuda/runtime.cpp
// implements the interface for GPUs, and main hands one in. The step and the model never ask which one it is.
#pragma once
#include "core/device.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace sffn {

// A backend's own queue: cudaStream_t, library handles and workspace. The CPU has none.
struct NativeStream {
  virtual ~NativeStream() = default;
};
// A point in a queue, and the time it was passed.
struct NativeEvent {
  virtual ~NativeEvent() = default;
};
// Work that was recorded, to be launched again.
struct NativeGraph {
  virtual ~NativeGraph() = default;
};

// What launches of one name and equal work took together.
struct KernelTime {
  std::string name;
  double bytes = 0, flops = 0;  // of one launch: what must move and be multiplied at least
  bool tensor_cores = false;    // which may do the multiplying
  int64_t launches = 0;
  double seconds = 0;
};

// Which of two streams with work for a device that is busy goes first.
enum class Urgency { kUsual, kHigh };

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
  // Bytes that can still be allocated; nothing where a system decides that as memory is touched.
  virtual std::optional<size_t> free_bytes() { return std::nullopt; }
  virtual std::unique_ptr<NativeStream> make_stream(Urgency) = 0;
  // Memory of the host that copies reach while the host goes on (page-locked on a GPU); zero.
  virtual void* allocate_host(size_t bytes);
  virtual void release_host(void* data, size_t bytes);
  // Copies between this device and the host, ordered on the stream; the host side must stay valid until synchronize.
  virtual void copy_to_device(NativeStream*, void* device, const void* host, size_t bytes) = 0;
  virtual void copy_to_host(NativeStream*, void* host, const void* device, size_t bytes) = 0;
  virtual void synchronize(NativeStream*) = 0;

  // Whether streams go on while the host does. The rest has an answer for a device whose work is done when a call
  // returns.
  virtual bool is_asynchronous() const { return false; }
  virtual std::unique_ptr<NativeEvent> make_event();
  virtual void record(NativeStream*, NativeEvent&);
  virtual void hold(NativeStream*, const NativeEvent&) {}  // the stream goes on when the event was passed
  virtual void wait(const NativeEvent&) {}                 // the host does
  // From one event to a later one, both passed.
  virtual double milliseconds(const NativeEvent& begin, const NativeEvent& end);
  // What `work` puts on the stream, without running it; nothing where the device cannot, and `work` was not called.
  // `work` must neither wait nor allocate. Throws RunError.
  virtual std::unique_ptr<NativeGraph> capture(NativeStream*, const std::function<void()>& work);
  virtual void launch(NativeStream*, NativeGraph&) {}

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
