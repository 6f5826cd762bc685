// A process becomes a rank: MPI where a launcher started it, its threads, its heartbeat, and the one way out.
#pragma once
#include "comm/communicator.h"
#include "comm/heartbeat.h"
#include "comm/placement.h"
#include "comm/watchdog.h"
#include "core/hash.h"

#include <functional>
#include <memory>
#include <optional>
#include <string>

namespace sffn {

// Reads a variable of the environment; nullptr when unset.
using Environment = std::function<const char*(const char*)>;

struct Launch {
  bool by_launcher = false;  // mpirun or srun started this process: else MPI is left alone
  int ranks = 0;             // as the launcher says; 0: it does not say
};
Launch detect_launch(const Environment& environment);

struct ThreadChoice {
  int threads = 1;
  std::string warning;  // empty: nothing to say
};
// min(affinity, cores / ranks on the host), at least 1, with a warning where the affinity is the smaller;
// OMP_NUM_THREADS overrules, with a warning when that asks for more than the host has. affinity: cores this process may
// run on.
ThreadChoice choose_threads(int affinity, int cores, int ranks_on_host, const char* omp_num_threads);

class World {
 public:
  // Collective over all processes that were started together. Throws UsageError when the launcher's number of ranks is
  // not MPI's, RunError when MPI does not start. Sets the number of OpenMP threads.
  World();
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  Communicator& ranks() { return *ranks_; }
  Communicator& host() { return *host_; }  // the ranks on this machine
  int threads() const { return threads_.threads; }
  int cores() const { return cores_; }
  const Placement& placement() const { return placement_; }
  // "2 ranks on 1 node, 1 thread each, 2 cores"
  std::string str() const { return describe_world(placement_, threads_of_ranks_, cores_of_nodes_); }
  std::string mpi() const;  // "Open MPI v4.1.4", or "without MPI"
  // What str() does not say and the user should know; empty: nothing. For rank 0 to print.
  std::string warning() const { return threads_.warning; }

  HeartbeatTable& heartbeat() { return *heartbeat_; }
  // From here on this rank must beat. Call it on all ranks.
  void start_watchdog(WatchdogLimits limits);

  // The normal end, on all ranks.
  void finish();
  // The end by an error of this rank: one line with the place, step and phase, then the end of all ranks with this exit
  // code. Ranks of a host that fail with the same error print it once. Returns only when this is the only rank.
  void fail(int exit_code, const std::string& what);

 private:
  bool mpi_ = false;
  std::unique_ptr<Communicator> ranks_, host_;
  std::unique_ptr<HeartbeatTable> heartbeat_;
  std::optional<Watchdog> watchdog_;
  ThreadChoice threads_;
  int cores_ = 1;
  Placement placement_;
  Span threads_of_ranks_, cores_of_nodes_;
};

// Starts the world, runs body on this rank and ends the world; returns the exit code, which is 2 where ranks are not
// the same program. An exception of body ends all ranks with its exit code, 1 unless it is an Error; an AgreedError
// (comm/agree.h), which all ranks throw alike, is printed by rank 0, and all leave in order.
int run_world(const std::function<int(World&)>& body);

// AgreedError (exit code 2) naming the ranks whose hash of `what` ("the configuration", "the program") is not that of
// most ranks; the same on all ranks. Collective.
void require_same(Communicator& comm, const Hash128& hash, const std::string& what);

}  // namespace sffn
