#pragma once
#include "comm/communicator.h"
#include "config/config.h"
#include "core/json.h"

namespace sffn {

// Times `steps` updates after two warm-up ones, on random tokens, one micro-batch a rank. Collective. Medians:
// {"tokens_per_second", "step_ms", "forward_backward_ms", "optimizer_ms", "exposed_communication_ms", "memory_bytes",
// "model_tflops", "products": of a GPU, the matrix products and what is fused with them}.
Json bench_step(Config config, Communicator& ranks, DeviceRuntime& runtime, int64_t steps);

}  // namespace sffn
