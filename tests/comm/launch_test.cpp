#include "comm/launch.h"

#include "comm/threads.h"
#include "support/catch.h"

#include <map>

using namespace sffn;

namespace {

Launch launch_in(const std::map<std::string, std::string>& variables) {
  return detect_launch([&](const char* name) -> const char* {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

std::string error_of(int ranks, int odd) {
  std::string what;
  try {
    run_threads(ranks,
                [&](Communicator& comm) { require_same(comm, hash128(comm.rank() == odd ? "b" : "a"), "the binary"); });
  } catch (const Error& e) {
    what = e.what();
  }
  return what;
}

}  // namespace

// Kills: a batch script of Slurm, or a job of one task, taken for a launcher; one launcher not known.
TEST_CASE("MPI starts only where a launcher started the process", "[launch]") {
  CHECK(!launch_in({}).by_launcher);
  CHECK(!launch_in({{"SLURM_NTASKS", "4"}, {"SLURM_PROCID", "0"}}).by_launcher);
  CHECK(!launch_in({{"SLURM_STEP_NUM_TASKS", "1"}, {"SLURM_PROCID", "0"}}).by_launcher);
  CHECK(launch_in({{"OMPI_COMM_WORLD_SIZE", "1"}}).by_launcher);
  CHECK(launch_in({{"OMPI_COMM_WORLD_SIZE", "2"}, {"SLURM_STEP_NUM_TASKS", "1"}}).ranks == 2);
  CHECK(launch_in({{"PMI_SIZE", "3"}}).ranks == 3);
  CHECK(launch_in({{"SLURM_STEP_NUM_TASKS", "4"}, {"PMIX_RANK", "2"}}).ranks == 4);
  CHECK(launch_in({{"PMIX_RANK", "0"}}).by_launcher);
  CHECK(launch_in({{"PMIX_RANK", "0"}}).ranks == 0);
}

// Kills: threads that ignore the affinity mask, the other ranks of the host, or go to zero.
TEST_CASE("threads are the smaller of the affinity mask and the rank's share of the host", "[launch]") {
  CHECK(choose_threads(8, 8, 1, nullptr).threads == 8);
  CHECK(choose_threads(8, 8, 3, nullptr).threads == 2);
  CHECK(choose_threads(2, 8, 2, nullptr).threads == 2);
  CHECK(choose_threads(2, 2, 4, nullptr).threads == 1);
  CHECK(choose_threads(8, 8, 2, nullptr).warning.empty());
}

// Kills: oversubscription without a word; a warning that stays away when ranks alone are too many; a warning of what a
// batch script asked for.
TEST_CASE("more threads than cores, or a mask smaller than the share, are warned of", "[launch]") {
  CHECK(choose_threads(8, 8, 2, "3").threads == 3);
  CHECK(choose_threads(8, 8, 2, "4").warning.empty());
  CHECK(choose_threads(8, 8, 2, "5").warning.find("2 ranks × 5 threads on 8 cores") == 0);
  CHECK(choose_threads(2, 2, 4, nullptr).warning.find("4 ranks × 1 thread on 2 cores") == 0);
  CHECK(choose_threads(1, 8, 2, nullptr).warning.find("bound to 1 core of its share of 4") != std::string::npos);
  CHECK(choose_threads(1, 8, 2, "1").warning.empty());
  CHECK(choose_threads(8, 8, 1, "4,2").threads == 4);
  CHECK(choose_threads(8, 8, 1, "many").threads == 8);
}

// Kills: comparing with rank 0 alone; letting ranks that differ go on.
TEST_CASE("ranks that differ from most are named", "[launch]") {
  CHECK(error_of(3, -1).empty());
  CHECK(error_of(3, 2).find("rank 2: the binary differs") == 0);
  CHECK(error_of(3, 0).find("rank 0: ") == 0);
  CHECK(error_of(2, 1).find("rank 1: ") == 0);
}
