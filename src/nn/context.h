// What a layer needs beside its inputs: no layer holds hidden state of the step.
#pragma once
#include "comm/communicator.h"
#include "core/arena.h"
#include "core/stream.h"

#include <cstdint>

namespace sffn {

struct Parallel {
  Communicator* world = nullptr;
  Communicator* data = nullptr;    // ranks that hold the same parameters and different sequences
  Communicator* expert = nullptr;  // ranks among which the blocks of a sparse layer are spread
};

struct Context {
  Stream& stream;
  Arena& saved;    // from a layer's forward pass to its backward pass
  Arena& scratch;  // within one call: open an ArenaScope
  Parallel parallel;
  uint64_t seed = 0;
  int64_t step = 0;
  int64_t first_sequence = 0;  // index, within the step's global batch, of this micro-batch's first sequence
  bool training = true;        // false: no dropout, choices as in evaluation
};

}  // namespace sffn
