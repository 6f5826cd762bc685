#pragma once
#include "comm/communicator.h"
#include "core/file.h"

#include <string>

namespace sffn {

// One writer in a run folder: rank 0 holds RUN/lock until it ends, however it ends. Ranks of a killed job live on for
// seconds, so a new run waits for them. Collective. Throws UsageError when the folder cannot be made or written, or
// when another run still holds it after `wait_seconds`.
class RunLock {
 public:
  RunLock(Communicator& comm, const std::string& run, double wait_seconds = 30);

 private:
  File file_;
};

}  // namespace sffn
