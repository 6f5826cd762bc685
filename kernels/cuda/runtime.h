#pragma once
#include "core/runtime.h"

namespace sffn {

// The GPU `device` of this process, from its first call on. Throws UsageError naming the CPU backend as the alternative
// where it cannot be used (device.h).
DeviceRuntime& cuda_runtime(int device = 0);

namespace cuda {

// While the host waits for the GPU, and once after, look() is called, which may throw: a collective whose partner is
// gone never ends, and CUDA does not say so. Belongs to the thread that waits.
class Lookout {
 public:
  explicit Lookout(DeviceRuntime& gpu);
  virtual ~Lookout();
  Lookout(const Lookout&) = delete;
  virtual void look() = 0;

 private:
  DeviceRuntime& gpu_;
};

}  // namespace cuda
}  // namespace sffn
