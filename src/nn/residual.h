#pragma once
#include "core/tensor.h"

namespace sffn {

// The residual stream: its value is sum + pending, where pending is the last branch's output, not added so far
// (absent before the first branch). The next add_norm adds it. Both [N, D]. Backward carries one tensor dh: the
// gradient of the value, hence of sum and of pending alike.
struct Residual {
  Tensor sum;
  Tensor pending;
};

}  // namespace sffn
