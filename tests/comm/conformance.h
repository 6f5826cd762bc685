// Every collective specified by a few copies, for every kind of communicator. Values are functions of the rank that
// owns them and of their global index, so that a row which goes astray shows. Failures are exceptions: these checks run
// on several threads at once, and in processes that have no test framework.
#pragma once
#include "comm/communicator.h"

namespace sffn::test {

// Tensors are on the runtime's device.
void check_conformance(Communicator& comm, DeviceRuntime& runtime = cpu_runtime());
// Two transfers of `rows` rows of 12 bytes to each rank under way at once, with work of the stream and calls of the
// host between their beginning and their end. Part of the above, with few rows.
void check_halves(Communicator& comm, int64_t rows, DeviceRuntime& runtime = cpu_runtime());

}  // namespace sffn::test
