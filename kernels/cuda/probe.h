#pragma once
#include "core/stream.h"

namespace sffn::cuda {

// Whether this binary holds code for the current GPU.
bool has_kernels();
// Runs the smallest kernel; RunError where its result is not there. Whether the code that this binary has for the GPU
// multiplies on warpgroups (wgmma.cuh): code for another architecture that the GPU runs as well does not.
bool run_probe(Stream& stream);

}  // namespace sffn::cuda
