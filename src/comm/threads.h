// N ranks in one process, for tests: each rank is a thread, a collective is a meeting of all of them and a few copies.
#pragma once
#include "comm/communicator.h"

#include <functional>

namespace sffn {

// Runs body(communicator) on `ranks` threads and returns when all have ended. When a rank throws, or returns while
// others are inside a collective, or when ranks enter different collectives, the others get a RunError from the call
// they are in or from their next one; then the first rank's own exception is rethrown here. Each rank gets an equal
// share of the caller's OpenMP threads, at least one. Communicator::abort ends the process.
void run_threads(int ranks, const std::function<void(Communicator&)>& body);

}  // namespace sffn
