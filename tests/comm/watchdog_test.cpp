#include "comm/watchdog.h"

#include "comm/threads.h"
#include "support/catch.h"

#include <atomic>

using namespace sffn;

namespace {

constexpr double kNow = 1000;

Heartbeat beat_of(int rank, const std::string& phase, double since, double seen_ago = 0.1) {
  return {rank, 4000 + rank, 41, phase, kNow - since, kNow - seen_ago, false, false};
}

}  // namespace

// Kills: naming the ranks that wait; an order by age alone.
TEST_CASE("the summary names the rank that is elsewhere than most", "[watchdog]") {
  CHECK(roll_call_summary({beat_of(0, "all_reduce", 300), beat_of(1, "data", 312), beat_of(2, "all_reduce", 311),
                           beat_of(3, "all_reduce", 311)},
                          kNow,
                          4) == "ranks 0,2,3 wait in all_reduce of step 41, rank 1 is in data of step 41 since 312 s");
}

// Kills: taking the first of two for the one at fault.
TEST_CASE("of two ranks the one that moved last is the one that waits", "[watchdog]") {
  CHECK(roll_call_summary({beat_of(0, "data", 4.04), beat_of(1, "all_reduce", 4)}, kNow, 2) ==
        "rank 1 waits in all_reduce of step 41, rank 0 is in data of step 41 since 4.0 s");
  CHECK(roll_call_summary({beat_of(0, "data", 4), beat_of(1, "all_reduce", 4.04)}, kNow, 2) ==
        "rank 0 waits in data of step 41, rank 1 is in all_reduce of step 41 since 4.0 s");
}

// Kills: blaming one rank that waits for two that are busy, or for one that came earlier.
TEST_CASE("a rank that waits is not the one at fault", "[watchdog]") {
  Heartbeat waiting = beat_of(0, "all_reduce", 5);
  waiting.waits = true;
  CHECK(roll_call_summary({waiting, beat_of(1, "data", 4)}, kNow, 2) ==
        "rank 0 waits in all_reduce of step 41, rank 1 is in data of step 41 since 4.0 s");
  CHECK(roll_call_summary({waiting, beat_of(1, "data", 4), beat_of(2, "data", 4)}, kNow, 3).find("rank 0 waits") == 0);
}

// Kills: a stopped rank counted among those that wait in the same place.
TEST_CASE("a rank without signs of life is named whatever its phase", "[watchdog]") {
  CHECK(roll_call_summary({beat_of(0, "all_reduce", 20), beat_of(1, "all_reduce", 20, 19)}, kNow, 2) ==
        "rank 0 waits in all_reduce of step 41, rank 1 (process 4001) does not run, it was in all_reduce of step 41 20 "
        "s ago");
}

// Kills: blaming a rank of this host for one of another; phases of the start without a step.
TEST_CASE("ranks that are all in one place point to the other hosts, if there are any", "[watchdog]") {
  const std::vector<Heartbeat> beats = {beat_of(0, "all_reduce", 20), beat_of(1, "all_reduce", 20)};
  CHECK(roll_call_summary(beats, kNow, 2) == "ranks 0,1 are all in all_reduce of step 41 since 20 s");
  CHECK(roll_call_summary(beats, kNow, 4).find("; the cause is on another host") != std::string::npos);
  Heartbeat early = beat_of(3, "load", 20);
  early.step = -1;
  CHECK(where(early, kNow) == "rank 3 is in load at start-up since 20 s");
}

// Kills: a table whose slots overlap; a phase cut in the wrong place; `moved` set by a beat that changes nothing.
TEST_CASE("ranks see each other's steps and phases, and only changes count as moves", "[watchdog]") {
  CHECK_NOTHROW(run_threads(3, [](Communicator& comm) {
    HeartbeatTable table(comm, 10 + comm.rank());
    table.beat(comm.rank(), cat("phase ", comm.rank()));
    comm.barrier();
    const std::vector<Heartbeat> all = table.all();
    for (int r = 0; r < 3; ++r) {
      const Heartbeat& beat = all[static_cast<size_t>(r)];
      SFFN_CHECK(beat.rank == 10 + r && beat.step == r && beat.phase == cat("phase ", r), "slot ", r, " is not rank ",
                 r);
    }
    comm.barrier();
    const double moved = table.mine().moved;
    table.beat(comm.rank(), cat("phase ", comm.rank()));
    SFFN_CHECK(table.mine().moved == moved, "a beat that changes nothing counted as a move");
    table.beat(comm.rank(), cat("phase ", comm.rank()), 1);
    SFFN_CHECK(table.mine().moved > moved, "a new item did not count as a move");
    table.beat(7, std::string(100, 'x'));
    SFFN_CHECK(table.mine().phase == std::string(31, 'x'), "a long phase became ", table.mine().phase);
    comm.barrier();
  }));
}

// Kills: several ranks that each raise the alarm; a rank that answers for its own error.
TEST_CASE("one rank raises the alarm, and the lowest of those with the same error speaks", "[watchdog]") {
  std::atomic<int> raised = 0, silent = 0;
  run_threads(4, [&](Communicator& comm) {
    HeartbeatTable table(comm, comm.rank());
    raised += table.raise_alarm();
    for (int turn = 0; turn < 4; ++turn) {
      if (turn == comm.rank()) silent += table.same_error_below(comm.rank() == 3 ? 8 : 5);
      comm.barrier();
    }
  });
  CHECK(raised == 1);
  CHECK(silent == 2);
}
