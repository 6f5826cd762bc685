#pragma once
#include "core/stream.h"

namespace sffn::cuda {

// Whether this binary holds code for the current GPU.
bool has_kernels();
// Runs the smallest kernel; RunError where its result is not there.
void run_probe(Stream& stream);

}  // namespace sffn::cuda
