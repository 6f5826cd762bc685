// Whether the device holds what is about to be allocated, in words that say what to change.
#pragma once
#include "core/device.h"
#include "train/engine.h"

#include <functional>
#include <string>

namespace sffn {

// UsageError where fewer than `needed` bytes are free on the device; "WHERE has N bytes free, M are needed: ADVICE".
// The CPU passes.
void require_memory(Device device, size_t needed, const std::function<std::string()>& advice);

// Of training as rank `rank` of `ranks`: the advice is the setting that saves most bytes, found by measuring each.
void require_memory(Device device, const Config& config, const Measurement& measured, int rank, int ranks);

}  // namespace sffn
