// A signal to mpirun or to one rank: one save, at the same step on all ranks, and an orderly end.
#include "support/catch.h"

#include "training.h"

#include <chrono>
#include <csignal>
#include <thread>

using namespace sffn;
using namespace sffn::test;

namespace {

enum class Target { kLauncher, kRank1 };

struct SignalCase {
  int signal;
  const char* name;
  Target target;
  const char* phase;  // drawn out at step 5 on rank 0, so that the signal arrives in it
};

// After TERM, INT or HUP Open MPI's mpirun sends its ranks TERM only when this many seconds (a setting of it) are over,
// and KILL after as many again: the phase lasts until between the two.
constexpr int kKillTimeout = 2;

bool passed_on_late(const SignalCase& c) {
  return c.target == Target::kLauncher && c.signal != SIGUSR1 && c.signal != SIGUSR2;
}

// Sends the signal in the phase.
Start signalled(const SignalCase& c, const std::string& run) {
  Start start{.run = run, .ranks = 2, .set = {"evaluation.every=5", "checkpoint.every=5"}};
  start.fault = cat(c.phase, ":0:5:delay:", passed_on_late(c) ? 1000 * kKillTimeout + 800 : 700);
  const bool in_step = c.phase == std::string("optimizer");
  start.on_output = when_it_says(in_step ? "step 4/20 " : "step 5/20 ", [c](pid_t launcher) {
    std::this_thread::sleep_for(std::chrono::milliseconds(150));
    kill(c.target == Target::kLauncher ? launcher : rank_processes(launcher).at(1), c.signal);
  });
  return start;
}

size_t count_of(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

void check_stop(const Workplace& place, const SignalCase& c, const Steps& unbroken) {
  const std::string run = cat(c.name, c.target == Target::kLauncher ? " mpirun " : " rank ", c.phase);
  const Ended stopped = place.train(signalled(c, run));
  INFO(run << ": " << to_string(stopped));
  // mpirun itself answers 1 after TERM, INT and HUP, whatever the ranks answer.
  CHECK(stopped.code == (passed_on_late(c) ? 1 : 0));
  const Json end = place.last_record(run);
  REQUIRE(end.find("end") != nullptr);
  CHECK(end.find("end")->as_string() == "signal");
  const int64_t step = end.find("saved_step")->as_int();
  CHECK(end.find("step")->as_int() == step);
  CHECK(step >= 4);
  CHECK(step < 20);
  CHECK(place.steps(run).rbegin()->first == step);
  CHECK(place.saved_steps(run).back() == step);
  CHECK(count_of(stopped.output, cat("saved step ", step, "\n")) == 1);
  CHECK(stopped.says(cat("signal ", end.find("cause")->as_string(), ": saving")));
  CHECK(stopped.error_lines().empty());
  CHECK(place.verifies(run, step));

  const Ended resumed = place.train({.run = run});
  INFO(to_string(resumed));
  CHECK(resumed.code == 0);
  CHECK(place.steps(run) == unbroken);
}

void check_stops(const std::vector<SignalCase>& cases) {
  const Workplace place;
  REQUIRE(place.train({.run = "unbroken"}).code == 0);
  const Steps unbroken = place.steps("unbroken");
  setenv("OMPI_MCA_odls_base_sigkill_timeout", std::to_string(kKillTimeout).c_str(), 1);
  for (const SignalCase& c : cases) check_stop(place, c, unbroken);
}

}  // namespace

// Kills: a flag that is not reduced over the ranks; a second save of the step that was just saved; a signal that is
// seen at the end of an evaluation only; TERM alone as a request to stop.
TEST_CASE("a stop signal in a step, an evaluation or a save makes one save and an orderly end", "[runs][signals]") {
  check_stops({{SIGUSR1, "USR1", Target::kLauncher, "optimizer"},
               {SIGUSR1, "USR1", Target::kLauncher, "evaluation"},
               {SIGUSR1, "USR1", Target::kRank1, "synced"},
               {SIGTERM, "TERM", Target::kRank1, "optimizer"},
               {SIGINT, "INT", Target::kRank1, "evaluation"},
               {SIGHUP, "HUP", Target::kRank1, "synced"}});
}

// Kills: a save that takes part of the run with it when mpirun passes TERM on.
TEST_CASE("TERM to mpirun saves before mpirun kills the ranks", "[runs][signals]") {
  check_stops({{SIGTERM, "TERM", Target::kLauncher, "optimizer"}});
}

// Kills: the same in the other phases and for the signals that mpirun turns into TERM.
TEST_CASE("TERM, INT and HUP to mpirun save in every phase", "[runs][signals][long]") {
  check_stops({{SIGTERM, "TERM", Target::kLauncher, "evaluation"},
               {SIGTERM, "TERM", Target::kLauncher, "synced"},
               {SIGINT, "INT", Target::kLauncher, "optimizer"},
               {SIGHUP, "HUP", Target::kLauncher, "synced"},
               {SIGUSR1, "USR1", Target::kLauncher, "synced"},
               {SIGUSR1, "USR1", Target::kRank1, "evaluation"},
               {SIGTERM, "TERM", Target::kRank1, "evaluation"},
               {SIGTERM, "TERM", Target::kRank1, "synced"},
               {SIGINT, "INT", Target::kRank1, "optimizer"},
               {SIGHUP, "HUP", Target::kRank1, "optimizer"}});
}

// Kills: the default action of USR2, which ends the process; a save request that stays set.
TEST_CASE("USR2 saves once and the run goes on to its end", "[runs][signals]") {
  const Workplace place;
  for (const Target target : {Target::kLauncher, Target::kRank1}) {
    const std::string run = target == Target::kLauncher ? "mpirun" : "rank";
    Start start = signalled({SIGUSR2, "USR2", target, "optimizer"}, run);
    start.set.clear();
    const Ended ended = place.train(start);
    INFO(run << ": " << to_string(ended));
    CHECK(ended.code == 0);
    CHECK(place.last_record(run).find("end")->as_string() == "done");
    CHECK(place.saved_steps(run).size() == 3);  // 0, the one asked for, 20
    CHECK(place.saved_steps(run).back() == 20);
  }
}

// Kills: a second TERM that waits for the step; a save in a handler.
TEST_CASE("a second TERM leaves at once with 143 and the last checkpoint stays valid", "[runs][signals]") {
  const Workplace place;
  Start start{.set = {"checkpoint.every=5"}, .fault = "optimizer:0:6:delay:20000"};
  start.on_output = when_it_says("saved step 5", [](pid_t process) {
    for (int i = 0; i < 2; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
      kill(process, SIGTERM);
    }
  });
  const Ended ended = place.train(start);
  INFO(to_string(ended));
  CHECK(ended.code == 143);
  CHECK(ended.seconds < 10);
  CHECK(place.saved_steps("run") == std::vector<int64_t>{0, 5});
  CHECK(place.verifies("run", 5));
}
