#pragma once
#include "comm/communicator.h"
#include "core/json.h"

namespace sffn {

// Times the collectives of a training step over growing sizes: {"ranks", "collectives": [{"collective", "bytes", "ms",
// "gigabytes_per_second"}]}, bytes being what a rank sends. Collective; medians.
Json bench_comm(Communicator& ranks);

}  // namespace sffn
