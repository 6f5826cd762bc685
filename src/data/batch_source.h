// The batch of a step as a pure function of (seed, step): ranks, micro-batch and resume do not enter.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

namespace sffn {

// Rows of B sequences of T tokens, on the host.
struct Batch {
  int64_t batch = 0, time = 0;
  std::vector<int32_t> inputs, targets;  // [B·T]; a target of -1 is not scored
  std::vector<int32_t> positions;        // [B·T]: 0 … T-1, restarting at documents under document_mask
  std::vector<int32_t> segment_start;    // [B·T]: first visible position of the row; empty without document_mask
};

}  // namespace sffn
