#pragma once
#include "comm/communicator.h"
#include "config/config.h"
#include "train/checkpoint/checkpoint.h"

#include <cstdint>
#include <optional>
#include <string>

namespace sffn {

struct ProbeOptions {
  std::string tokens;     // file of little-endian int32, `batch` rows of T + 1 ids: inputs, then targets shifted by one
  int64_t batch = 1;      // B
  std::string out;        // safetensors file
  std::string save;       // where set: the weights are also written as a checkpoint into this folder
  bool training = false;  // dropout and choices as in training
};

// One forward and backward pass with everything written out, f32 unless told: loss, extra_loss, logits [B, T, V],
// hidden.I [B, T, D], grad.NAME of every parameter, and of each layer that chooses layers.I.ffn.blocks [B·T, b] i32
// with layers.I.ffn.weights [B·T, b]. The loss is the mean cross-entropy over B·T targets plus the extra losses.
// Weights come from `from`, or are the initial ones of config.train.seed. Throws UsageError for a file that is no B
// rows of at most context + 1 ids, DamagedError for an id at or above the vocabulary.
void probe(const Config& config, const std::optional<FoundCheckpoint>& from, DeviceRuntime& runtime,
           const ProbeOptions& options);

}  // namespace sffn
