#include "train/checkpoint/run_lock.h"

#include "comm/agree.h"
#include "core/log.h"

#include <sys/file.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

namespace sffn {
namespace {

using Clock = std::chrono::steady_clock;

void lock(const File& file, const std::string& run, double wait_seconds) {
  const Clock::time_point end =
      Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(wait_seconds));
  bool told = false;
  while (flock(file.descriptor(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK) throw UsageError(file.path(), cat("cannot be locked: ", std::strerror(errno)));
    if (Clock::now() >= end) {
      throw UsageError(run, cat("another run still writes here after ", wait_seconds, " s; use another run folder"));
    }
    if (!std::exchange(told, true)) log::info("waiting for another run to leave ", run);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

}  // namespace

RunLock::RunLock(Communicator& comm, const std::string& run, double wait_seconds) {
  together(comm, [&] {
    if (comm.rank() != 0) return;
    make_directories(run);
    file_ = File::open(run + "/lock", File::Mode::kAppend, ExitCode::kUsage);
    lock(file_, run, wait_seconds);
  });
}

}  // namespace sffn
