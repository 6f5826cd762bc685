#pragma once
#include "core/runtime.h"
#include "core/stream.h"

#include <string>
#include <vector>

namespace sffn {

// The GPU `device` of this process. Throws UsageError naming the CPU backend as the alternative where there is none.
DeviceRuntime& cuda_runtime(int device = 0);

namespace cuda {

// The matrix products that ran on the stream or were asked of cuBLASLt, a line each: "MxNxK, types, what is fused";
// with
// ": in parts" where it has no algorithm for a fused one, so that the parts are ops of their own.
std::vector<std::string> describe_products(Stream&);

}  // namespace cuda
}  // namespace sffn
