#pragma once
#include "core/runtime.h"

namespace sffn {

// The GPU `device` of this process. Throws UsageError naming the CPU backend as the alternative where there is none.
DeviceRuntime& cuda_runtime(int device = 0);

}  // namespace sffn
