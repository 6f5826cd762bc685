#include "comm/launch.h"

#include "comm/agree.h"
#include "comm/mpi.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/log.h"
#include "kernels/cpu/parallel.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <map>
#include <new>
#include <thread>

namespace sffn {
namespace {

constexpr auto kSameErrorWait = std::chrono::milliseconds(200);

int positive_int(const char* text) {
  return text == nullptr ? 0 : static_cast<int>(std::clamp(std::strtol(text, nullptr, 10), 0l, 1l << 24));
}

// Cores' worth of time that the container may use (cgroup v2: "QUOTA PERIOD" in microseconds, or "max"); 0: no limit.
int cores_of_quota() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  double quota = 0, period = 0;
  if (!(file >> quota >> period) || period <= 0) return 0;
  return std::max(1, static_cast<int>(std::ceil(quota / period)));
}

int cores_of_host() {
  const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency())), quota = cores_of_quota();
  return quota > 0 ? std::min(cores, quota) : cores;
}

int cores_of_process() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return cores_of_host();  // more than 1024 cores
  return std::max(1, CPU_COUNT(&set));
}

std::string name_of_host() {
  char name[256] = "";
  return gethostname(name, sizeof name - 1) == 0 ? name : "unknown";
}

std::string plural(int count, const char* what) { return cat(count, " ", what, count == 1 ? "" : "s"); }

}  // namespace

Launch detect_launch(const Environment& environment) {
  if (const int ranks = positive_int(environment("OMPI_COMM_WORLD_SIZE")); ranks > 0) return {true, ranks};
  // MPICH and Intel MPI; a step of Slurm (its batch script is none). One rank needs no MPI.
  for (const char* name : {"PMI_SIZE", "SLURM_STEP_NUM_TASKS"}) {
    if (const int ranks = positive_int(environment(name)); ranks > 0) return {ranks > 1, ranks};
  }
  return {environment("PMIX_RANK") != nullptr, 0};
}

ThreadChoice choose_threads(int affinity, int cores, int ranks_on_host, const char* omp_num_threads) {
  const int share = std::max(1, cores / ranks_on_host);
  ThreadChoice choice{std::min(affinity, share), ""};
  const int asked = positive_int(omp_num_threads);
  if (asked > 0) choice.threads = asked;
  if (choice.threads * ranks_on_host > cores) {
    choice.warning = cat(plural(ranks_on_host, "rank"), " × ", plural(choice.threads, "thread"), " on ",
                         plural(cores, "core"), ": the ranks will slow each other down");
  } else if (asked == 0 && affinity < share) {
    choice.warning = cat("each rank is bound to ", plural(affinity, "core"), " of its share of ", share,
                         "; mpirun --bind-to none gives it all");
  }
  return choice;
}

World::World() {
  const Environment environment = [](const char* name) { return std::getenv(name); };
  const Launch launch = detect_launch(environment);
  mpi_ = launch.by_launcher;
  if (mpi_) {
    mpi_start();
    ranks_ = make_mpi_communicator();
    host_ = make_mpi_host_communicator();
    if (launch.ranks > 0 && ranks_->size() != launch.ranks) {
      throw UsageError("launcher", cat(launch.ranks, " ranks were started, but ", mpi_version(), " sees ",
                                       ranks_->size(), "; use the mpirun of that library, or srun --mpi=pmix"));
    }
  } else {
    ranks_ = make_self_communicator();
    host_ = make_self_communicator();
  }
  heartbeat_ = std::make_unique<HeartbeatTable>(*host_, ranks_->rank());
  cores_ = cores_of_host();
  threads_ = choose_threads(cores_of_process(), cores_, host_->size(), environment("OMP_NUM_THREADS"));
#ifdef _OPENMP
  omp_set_num_threads(threads_.threads);
#endif
  placement_ = find_placement(*ranks_, *host_, name_of_host());
  threads_of_ranks_ = span_of(ranks_->gather_values(threads_.threads));
  cores_of_nodes_ = span_of(ranks_->gather_values(cores_));
}

World::~World() = default;

std::string World::mpi() const { return mpi_ ? mpi_version() : "without MPI"; }

void World::start_watchdog(WatchdogLimits limits) { watchdog_.emplace(*ranks_, *heartbeat_, limits); }

void World::finish() {
  heartbeat_->beat(heartbeat_->mine().step, "finalize");
  if (mpi_) {
    mpi_ = false;
    host_.reset();
    mpi_finish();
  }
  heartbeat_->done();
  watchdog_.reset();
}

void World::fail(int exit_code, const std::string& what) {
  const Heartbeat beat = heartbeat_->mine();
  const bool alone = ranks_->size() == 1;
  if (!alone) {
    // Ranks that read the same bad file fail alike: the first of them speaks.
    const uint64_t hash = hash128(what).low | 1;
    bool said = heartbeat_->same_error_below(hash);
    if (host_->rank() > 0 && !said) {
      std::this_thread::sleep_for(kSameErrorWait);
      said = heartbeat_->same_error_below(hash);
    }
    if (said) {  // the speaker ends this process
      std::this_thread::sleep_for(std::chrono::seconds(1));
      ranks_->abort(exit_code);
    }
  }
  std::string place = alone ? "" : cat("rank ", ranks_->rank());
  if (beat.step >= 0) place += cat(place.empty() ? "" : ", ", "step ", beat.step, ", phase ", beat.phase);
  log::error(what, place.empty() ? "" : " (" + place + ")");
  if (alone) return finish();
  heartbeat_->announce_end(exit_code);
  ranks_->abort(exit_code);
}

namespace {

Hash128 hash_of_program() {
  constexpr size_t kMaxProgram = size_t{1} << 30;
  return hash128(read_file("/proc/self/exe", kMaxProgram, ExitCode::kRunFailed));
}

}  // namespace

int run_world(const std::function<int(World&)>& body) {
  std::unique_ptr<World> world;
  try {
    world = std::make_unique<World>();
  } catch (const Error& e) {
    log::error(e.what());
    return static_cast<int>(e.code());
  }
  int code = 1;
  std::string failure;
  try {
    if (world->ranks().size() > 1) require_same(world->ranks(), hash_of_program(), "the program");
    code = body(*world);
    world->finish();
    return code;
  } catch (const AgreedError& e) {
    if (world->ranks().rank() == 0) log::error(e.what());
    world->finish();
    return static_cast<int>(e.code());
  } catch (const Error& e) {
    code = static_cast<int>(e.code());
    failure = e.what();
  } catch (const std::bad_alloc&) {
    failure = "out of memory";
  } catch (const std::exception& e) {
    failure = e.what();
  }
  world->fail(code, failure);
  return code;
}

void require_same(Communicator& comm, const Hash128& hash, const std::string& what) {
  const std::vector<Hash128> hashes = comm.gather_values(hash);
  std::map<Hash128, int> votes;
  for (const Hash128& h : hashes) ++votes[h];
  Hash128 common = hashes[0];  // rank 0's among equals
  for (const auto& [h, count] : votes) {
    if (count > votes[common]) common = h;
  }
  std::string odd;
  for (size_t r = 0; r < hashes.size(); ++r) {
    if (hashes[r] != common) odd += cat(odd.empty() ? "" : ",", r);
  }
  if (!odd.empty()) {
    throw AgreedError(ExitCode::kUsage,
                      cat("rank ", odd, ": ", what, " differs from that of the other ranks; start all with the same"));
  }
}

}  // namespace sffn
