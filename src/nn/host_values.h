// Tensors as plain double vectors on the host: constants, inspection and tests. Not for the inside of a step.
#pragma once
#include "core/stream.h"

#include <span>
#include <vector>

namespace sffn {

// The elements of a floating tensor; of c128 the real parts. Waits for the stream.
std::vector<double> read_values(Stream&, const Tensor&);
// Overwrites a floating tensor, rounding to its dtype. Waits for the stream.
void write_values(Stream&, Tensor, std::span<const double> values);

}  // namespace sffn
