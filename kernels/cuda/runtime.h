#pragma once
#include "core/runtime.h"
#include "core/stream.h"

#include <string>
#include <vector>

namespace sffn {

// The GPU `device` of this process, from its first call on. Throws UsageError naming the CPU backend as the alternative
// where it cannot be used (device.h).
DeviceRuntime& cuda_runtime(int device = 0);

namespace cuda {

// Whether this binary's kernels for the GPU of cuda_runtime(device) multiply on warpgroups.
bool multiplies_on_warpgroups(int device);
// The matrix products that ran on the stream or were asked of cuBLASLt, a line each: "MxNxK, types, what is fused",
// with
// ": in parts" where it has no algorithm for a fused one, so that the parts are ops of their own.
std::vector<std::string> describe_products(Stream&);
// From watch() on, look() is called while the host waits for the GPU, and once after; it may throw. A collective whose
// partner is gone never ends, and CUDA does not say so. For the thread that waits.
class Lookout {
 public:
  Lookout() = default;
  virtual ~Lookout();
  Lookout(const Lookout&) = delete;
  virtual void look() = 0;

 protected:
  void watch(DeviceRuntime& gpu);

 private:
  DeviceRuntime* gpu_ = nullptr;
};

}  // namespace cuda
}  // namespace sffn
