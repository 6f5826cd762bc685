#pragma once
#include "core/runtime.h"

namespace sffn {

// The GPU `device` of this process, from its first call on. Throws UsageError naming the CPU backend as the alternative
// where it cannot be used (device.h).
DeviceRuntime& cuda_runtime(int device = 0);

}  // namespace sffn
