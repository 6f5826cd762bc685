// Whether the device holds what is about to be allocated, in words that say what to change.
#pragma once
#include "core/runtime.h"
#include "train/engine.h"

#include <functional>
#include <string>

namespace sffn {

// The settings that a GPU carries out: what measuring on the meta device, which is none, cannot know.
Config as_on_gpu(Config);

// What rank `rank` of `ranks` needs in training on the device. UsageError where that is more than is free there, with
// the setting that would save most bytes, found by measuring each.
Measurement measure_for(DeviceRuntime& runtime, const Config& config, int rank, int ranks);

// UsageError where fewer than `needed` bytes are free on the device; "WHERE has N bytes free, and M are needed (…),
// ADVICE". The CPU passes.
void require_memory(Device device, size_t needed, const std::function<std::string()>& advice);

}  // namespace sffn
