// A small trainer without training: six steps of the phases data and all_reduce. `program MODE [RANK]`: the rank does
// at step 3 what the mode says.
#include "comm/launch.h"
#include "core/log.h"
#include "core/signals.h"

#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

using namespace sffn;

namespace {

void pause_for(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

void misbehave(World& world, const std::string& mode, int64_t step) {
  if (mode == "stop") raise(SIGSTOP);
  if (mode == "sleep") pause_for(60);
  if (mode == "kill") raise(SIGKILL);
  if (mode == "throw") throw DamagedError("shard 7", "cannot be read");
  if (mode == "busy") {  // longer than the limit, but it moves
    for (int block = 0; block < 8; ++block) {
      world.heartbeat().beat(step, "save", block);
      pause_for(0.4);
    }
  }
}

// Returns the exit code. In mode "signal" it goes on until one comes.
int train(World& world, const std::string& mode, int odd) {
  Communicator& ranks = world.ranks();
  const bool is_odd = ranks.rank() == odd || odd < 0;
  log::start(ranks.rank());
  log::info(world.str());
  std::printf("process %d\n", static_cast<int>(getpid()));
  std::fflush(stdout);
  require_same(ranks, hash128(mode == "disagree" && is_odd ? "other" : "same"), "the configuration");
  world.start_watchdog({10, 2});
  for (int64_t step = 1; step <= (mode == "signal" ? 2000 : 6); ++step) {
    world.heartbeat().beat(step, "data");
    pause_for(0.01);
    if (step == 3 && is_odd) misbehave(world, mode, step);
    world.heartbeat().wait(step, "all_reduce");
    const int signal = ranks.max_value(signals::stop_signal());
    if (mode == "signal" && step == 3) log::info("ready");
    if (signal != 0) {
      std::printf("rank %d stops at step %lld by %s\n", ranks.rank(), static_cast<long long>(step),
                  signals::name(signal).c_str());
      return 0;
    }
  }
  log::info("done with ", world.threads(), " threads");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  signals::install();
  const std::string mode = argc > 1 ? argv[1] : "done";
  const int odd = argc > 2 ? std::atoi(argv[2]) : 0;
  return run_world([&](World& world) { return train(world, mode, odd); });
}
