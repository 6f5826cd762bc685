// Whether the device holds what is about to be allocated, in words that say what to change.
#pragma once
#include "core/runtime.h"
#include "train/engine.h"

#include <functional>
#include <string>

namespace sffn {

// UsageError where fewer than `needed` bytes are free on the device; "WHERE has N bytes free, M are needed: ADVICE".
// Devices that cannot tell pass.
void require_memory(DeviceRuntime& runtime, size_t needed, const std::function<std::string()>& advice);

// Of training as rank `rank` of `ranks`: the advice is the setting that saves most bytes, found by measuring each.
void require_memory(DeviceRuntime& runtime, const Config& config, const Measurement& measured, int rank, int ranks);

}  // namespace sffn
