#pragma once
#include "comm/placement.h"
#include "core/json.h"

namespace sffn {

// Times the collectives of a training step over growing sizes: {"ranks", "collectives": [{"collective", "bytes", "ms",
// "gigabytes_per_second"}], "network"}, bytes being what a rank sends, and the network what `sffn plan --network`
// takes: latency by the smallest size, bandwidth by the largest, among the ranks of a node and among ranks of different
// nodes while all others do the same; null of one rank. Tensors are those of the device that `ranks` move. Collective;
// medians of so many calls, 0: 101 of short ones and 9 of long ones.
Json bench_comm(Communicator& ranks, DeviceRuntime& device, const Placement& placement, int repeats);

}  // namespace sffn
