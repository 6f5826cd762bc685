// Memory and work of the model, found by running it on the meta device: nothing is computed, every allocation is made.
#pragma once
#include "config/config.h"
#include "core/stream.h"

#include <cstddef>
#include <cstdint>

namespace sffn {

struct PassPlan {
  size_t saved = 0, scratch = 0;  // bytes: arenas of exactly these capacities serve the pass
  OpCounter work;                 // what is really multiplied, recomputation included
};

struct MemoryPlan {
  size_t parameters = 0;  // values as stored, padding included
  size_t gradients = 0;   // one flat buffer of the accumulate type
  size_t constants = 0;   // tables that are not trained
  PassPlan train, evaluate;
};

// On that device, of micro-batches of `batch` sequences of `time` tokens. Throws UsageError for a model that cannot be
// built.
MemoryPlan measure_memory(Config, int64_t batch, int64_t time, const DeviceRuntime& = cpu_runtime());

}  // namespace sffn
