// The training run: resume or start, step, report, evaluate, save, stop.
#pragma once
#include "comm/communicator.h"
#include "config/config.h"
#include "core/runtime.h"
#include "train/hooks.h"

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace sffn {

struct TrainOptions {
  std::string run;              // folder; made when missing
  std::string resume = "auto";  // auto | never | a checkpoint
  bool verify = true;           // compare checksums when loading
};

// Where this rank is, told as the run goes on.
struct Position {
  int64_t step = -1;  // -1: starting up
  std::string_view phase;
  int64_t item = 0;    // moves inside long phases: batches of an evaluation, blocks of a save
  bool waits = false;  // for other ranks, in a collective
};
using Beat = std::function<void(const Position&)>;

// Trains `config` to its last step on the runtime's device. Collective. Stops early, after a save, when a signal asked
// for it on any rank. Returns how the run ended: "done" or "signal". Errors of the configuration, of data or
// checkpoints, and losses that are not finite are AgreedErrors: all ranks throw them alike.
RunEnd train(Config config, const TrainOptions& options, Communicator& world, DeviceRuntime& runtime, const Beat& beat);

}  // namespace sffn
