// A rank that dies or stands still ends the job, which names it; nothing saved is lost.
#include "support/catch.h"

#include "training.h"

#include <memory>

using namespace sffn;
using namespace sffn::test;

namespace {

struct Watched {
  Ended ended;
  std::map<int, pid_t> ranks;
};

// Runs with a fault on rank 1 of 2 at step 8; step 5 is saved before.
Watched run_with(const Workplace& place, const std::string& run, const std::string& fault) {
  Watched watched;
  Start start{.run = run, .ranks = 2, .fault = fault};
  start.set = {"checkpoint.every=5", "evaluation.every=8", "train.watchdog.step_seconds=3"};
  start.on_output = when_it_says("fresh start", [&](pid_t launcher) { watched.ranks = rank_processes(launcher); });
  watched.ended = place.train(start);
  return watched;
}

void check_nothing_is_left(const Workplace& place, const std::string& run, const Watched& watched) {
  CHECK(!watched.ranks.empty());
  for (const auto& [rank, process] : watched.ranks) CHECK(gone_within(process, 5));
  CHECK(place.saved_steps(run).back() >= 5);
  CHECK(place.verifies(run, place.saved_steps(run).back()));
}

struct Hang {
  const char* fault;
  const char* says;
};

void check_hangs(const std::vector<Hang>& hangs) {
  const Workplace place;
  for (const Hang& hang : hangs) {
    const Watched watched = run_with(place, hang.fault, hang.fault);
    INFO(hang.fault << ": " << to_string(watched.ended));
    CHECK(watched.ended.code == 1);
    CHECK(watched.ended.seconds < 15);
    REQUIRE(watched.ended.error_lines().size() == 1);
    CHECK(watched.ended.error_lines()[0].find(hang.says) != std::string::npos);
    CHECK(watched.ended.error_lines()[0].find(", rank 1 ") != std::string::npos);
    check_nothing_is_left(place, hang.fault, watched);
  }
}

}  // namespace

// Kills: leaving a stopped rank to MPI, which waits for ever; an exchange that is not told to the watchdog as a wait.
TEST_CASE("a stopped rank is named by the watchdog, which ends the job", "[runs][watchdog]") {
  check_hangs({{"data:1:8:stop", "watchdog: rank 0 waits in gradient exchange of step 8, rank 1 (process "}});
}

// Kills: a rank that is stuck but alive and therefore taken for the one that waits.
TEST_CASE("a stuck rank is told from the one that waits for it", "[runs][watchdog]") {
  check_hangs({{"data:1:8:delay:60000", "rank 0 waits in gradient exchange of step 8, rank 1 is in data of step 8"}});
}

// Kills: a phase without heartbeat.
TEST_CASE("a rank stopped in an evaluation, a save or an exchange is named", "[runs][watchdog][long]") {
  check_hangs({{"evaluation:1:8:stop", "rank 0 waits in evaluation of step 8, rank 1 (process "},
               {"weight exchange:1:8:stop", "rank 0 waits in weight exchange of step 8, rank 1 (process "},
               {"synced:1:10:stop", "save of step 10, rank 1 (process "}});
}

// Kills: a handler that swallows the death of a rank; a checkpoint that is written in place.
TEST_CASE("a killed rank ends the job at once and the newest checkpoint verifies", "[runs][watchdog]") {
  const Workplace place;
  for (const char* fault : {"forward and backward:1:8:kill", "synced:1:10:kill"}) {
    const Watched watched = run_with(place, fault, fault);
    INFO(fault << ": " << to_string(watched.ended));
    CHECK(watched.ended.code == 137);
    CHECK(watched.ended.seconds < 10);
    check_nothing_is_left(place, fault, watched);
    CHECK(place.saved_steps(fault) == std::vector<int64_t>{0, 5});
  }
}
