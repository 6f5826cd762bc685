// Ends a job that hangs, and names the rank at fault. MPI notices a rank that dies, but waits for ever for one that is
// stopped or stuck.
#pragma once
#include "comm/heartbeat.h"

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace sffn {

// Seconds; 0 switches the limit off.
struct WatchdogLimits {
  double start_up = 1800;  // while a rank is at step -1
  double run = 600;
};

// A thread of each rank. When no rank of this host has moved (step, phase or item of its heartbeat) within the limit,
// every live rank prints where it is, one line names the odd one out, and the job is aborted with exit code 1; a rank
// whose abort does not return leaves by itself after 5 s. A rank that waits while another one moves is not stuck. Ranks
// that see the announced end of a failing job leave with its exit code.
class Watchdog {
 public:
  // Both must outlive the watchdog.
  Watchdog(Communicator& world, HeartbeatTable& table, WatchdogLimits limits);
  ~Watchdog();

 private:
  void run();
  bool all_are_stuck(double now) const;
  void roll_call(bool first);
  void wait_for_reports(double deadline);
  void wait_for_end(double deadline);

  Communicator& world_;
  HeartbeatTable& table_;
  WatchdogLimits limits_;
  double started_;  // or when this process ran again after it was stopped
  std::mutex guard_;
  std::condition_variable stopping_;
  bool stop_ = false;
  std::thread thread_;
};

// "rank 1 is in data of step 41 since 312 s"
std::string where(const Heartbeat& beat, double now);
// "ranks 0,2,3 wait in all_reduce of step 41, rank 1 is in data of step 41 since 312 s": the ranks that do not run,
// then those outside the group that waits, or is largest, or moved last.
std::string roll_call_summary(const std::vector<Heartbeat>& beats, double now, int world_size);

}  // namespace sffn
