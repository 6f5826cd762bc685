#pragma once
#include "config/config.h"
#include "core/json.h"

#include <string>

namespace sffn {

// What a run on `ranks` ranks costs, without data, memory or a GPU: parameters, FLOPs, memory per rank, communication a
// step, and a roofline step time where the device's peaks are known (else null). The model runs on the meta device, so
// memory is what `train` allocates to the byte. The object is that of `sffn plan --json`. device: h200 | h100 | a100 |
// l40s | cpu. Throws UsageError for an unknown device, a model without vocab_size, or a step with too few
// micro-batches.
Json plan_run(const Config& config, int ranks, const std::string& device);

// Bytes that the optimizer reads and writes for a parameter: gradient, weight and both moments read, weight and moments
// written; in bf16 the rounded weight too.
double update_bytes(const Config& config);
// UsageError for a model without vocab_size.
void require_vocabulary(const Config& config);

}  // namespace sffn
