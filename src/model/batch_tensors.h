#pragma once
#include "data/batch_source.h"
#include "nn/context.h"

namespace sffn {

// A batch on the device. N = B·T rows, sequence after sequence; all [N] i32.
struct BatchTensors {
  int64_t batch = 0, time = 0;
  int64_t scored = 0;  // targets that are not -1
  Tensor inputs, targets, positions;
  Tensor segment_start;  // absent without document masks
  int64_t tokens() const { return batch * time; }
};

// Checks sizes and that ids lie in [0, vocab) and positions in [0, max_positions); throws RunError. The tensors are
// allocated in ctx.saved.
BatchTensors upload(Context&, const Batch&, int64_t vocab, int64_t max_positions);

}  // namespace sffn
