// What may change between a checkpoint and the run that goes on from it.
#pragma once
#include "core/json.h"

#include <string>
#include <vector>

namespace sffn {

// One line a difference: "optimizer.lr: 3e-04 in the checkpoint, 0.0001 now".
struct ResumeChanges {
  std::vector<std::string> loud;     // allowed, to be shown as warnings: optimizer, schedule, data paths, precision
  std::vector<std::string> refused;  // another model, tokens_per_step or seed: a usage error
};

// Both are resolved configurations (vocab_size an integer). Backend, micro-batch, layout, recomputation, logging,
// evaluation, checkpoints, the name and the number of steps change silently.
ResumeChanges compare_for_resume(const Json& saved, const Json& current);

}  // namespace sffn
