#pragma once
#include "comm/communicator.h"
#include "config/config.h"
#include "core/json.h"

namespace sffn {

struct StepBench {
  int64_t steps = 10, warm_up = 2;
  bool profile = false;  // one more step, whose kernels are timed
};

// Times updates on random tokens, one micro-batch a rank. Collective. Medians:
// {"name", "device", "ranks", "tokens_per_second", "step_ms", "forward_backward_ms", "optimizer_ms",
// "exposed_communication_ms", "least_communication_ms", "rates", "memory_bytes", "model_tflops", "mfu", "products"}:
// the least of all ranks, which is that of the rank that waits least for others; rates what `sffn plan --rates` takes;
// mfu null where the device's peak is unknown, products those of a GPU and what is fused with them; with profile also
// "profile" (rows of profile.h) and "outside_kernels_ms", what no kernel accounts for. Throws UsageError where a
// profile is wanted of a device without kernels.
Json bench_step(Config config, Communicator& ranks, DeviceRuntime& runtime, const StepBench& bench);

}  // namespace sffn
