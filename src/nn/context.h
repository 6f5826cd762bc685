// What a layer needs beside its inputs: no layer holds hidden state of the step.
#pragma once
#include "comm/communicator.h"
#include "comm/groups.h"
#include "core/arena.h"
#include "core/stream.h"
#include "kernels/types.h"

#include <cstdint>
#include <vector>

namespace sffn {

struct Parallel {
  Communicator* world = nullptr;
  Communicator* data = nullptr;      // ranks with different sequences: all of them
  Communicator* expert = nullptr;    // ranks among which the blocks of a sparse layer are spread
  Communicator* replicas = nullptr;  // ranks that hold the same blocks; read only where blocks are spread
};

inline Parallel parallel_of(Communicator& ranks, RankGroups& groups) {
  return {.world = &ranks, .data = &ranks, .expert = &groups.expert(), .replicas = &groups.replicas()};
}

// What the layers that choose say of one pass, on the host: for probes and tests.
struct ChoiceRecord {
  int64_t layer = 0, per_token = 0;
  std::vector<int32_t> blocks;  // [N, per_token]; dropped choices included
  std::vector<double> weights;  // [N, per_token]; 0 for dropped ones
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
  bool gradients = true;       // false: no backward pass follows, and extra losses are not computed
  bool count_choices = false;  // layers add to their counters
  // Each layer adds its extra loss to its element of [layers] acc. Absent in a pass that is made again.
  Tensor extra_losses = {};
  double extra_loss_scale = 0;  // d(loss of the step) / d(extra loss of this micro-batch)
  // Where set, step and first sequence are read there when the work runs, and those above are not used.
  const PassClock* clock = nullptr;
  std::vector<ChoiceRecord>* choices = nullptr;  // where set: records are appended, layer after layer
};

}  // namespace sffn
