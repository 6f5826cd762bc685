#include "support/process.h"

#include "support/catch.h"

#include <chrono>
#include <csignal>
#include <regex>
#include <set>
#include <thread>

using namespace sffn;

namespace {

// Seconds that a busy machine may add.
constexpr double kLoad = 8;

test::ProcessResult run_ranks(int ranks, const std::vector<std::string>& arguments, test::ProcessOptions options = {}) {
  std::vector<std::string> command = {test::test_program("comm", "ranks")};
  command.insert(command.end(), arguments.begin(), arguments.end());
  options.environment.insert(options.environment.end(),
                             {"OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1", "OMP_NUM_THREADS"});
  options.limit_s = 30;
  return test::run_process(ranks == 0 ? command : test::mpirun(ranks, command), options);
}

std::vector<pid_t> processes_in(const std::string& output) {
  std::vector<pid_t> processes;
  const std::regex pattern("process (\\d+)\n");
  for (std::sregex_iterator i(output.begin(), output.end(), pattern), end; i != end; ++i) {
    processes.push_back(std::stoi((*i)[1]));
  }
  return processes;
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

int count_of(const std::string& text, const std::string& part) {
  int count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

void check_nobody_is_left(const test::ProcessResult& result, size_t ranks) {
  const std::vector<pid_t> processes = processes_in(result.output);
  CHECK(processes.size() == ranks);
  for (const pid_t process : processes) CHECK(test::gone_within(process, 3));
}

}  // namespace

// Kills: MPI_Init without a launcher; a watchdog thread that is not joined.
TEST_CASE("a process without launcher is a world of one rank", "[process]") {
  const test::ProcessResult result = run_ranks(0, {"done"});
  INFO(result.output);
  CHECK(result.code == 0);
  CHECK(contains(result.output, "1 rank on 1 node, "));
  CHECK(contains(result.output, "done with"));
}

// Kills: a share of cores that ignores the other ranks of the host; a false alarm while rank 1 alone is at work.
TEST_CASE("ranks that work longer than the limit but move are left alone", "[process]") {
  const test::ProcessResult result = run_ranks(2, {"busy", "1"});
  INFO(result.output);
  CHECK(result.code == 0);
  CHECK(contains(result.output, "2 ranks on 1 node, "));
  CHECK(contains(result.output, "done with"));
  CHECK(!contains(result.output, "watchdog"));
  check_nobody_is_left(result, 2);
}

// Kills: leaving the detection to MPI; a roll call that waits for the stopped rank; naming the waiting ones.
TEST_CASE("a stopped rank is named and ends the job", "[process]") {
  const test::ProcessResult result = run_ranks(3, {"stop", "1"});
  INFO(result.output);
  CHECK(result.code == 1);
  CHECK(result.seconds < 2 + 5 + kLoad);
  CHECK(contains(result.output, "error: watchdog: ranks 0,2 wait in all_reduce of step 3, rank 1 (process "));
  CHECK(contains(result.output, "does not run, it was in data of step 3"));
  CHECK(contains(result.output, "watchdog: rank 0 is in all_reduce of step 3 since "));
  CHECK(contains(result.output, "watchdog: rank 2 is in all_reduce of step 3 since "));
  CHECK(count_of(result.output, "error: watchdog") == 1);
  check_nobody_is_left(result, 3);
}

// Kills: taking a watchdog thread that runs for a rank that moves.
TEST_CASE("a live rank that is stuck in a phase is named and ends the job", "[process]") {
  const test::ProcessResult result = run_ranks(2, {"sleep", "0"});
  INFO(result.output);
  CHECK(result.code == 1);
  CHECK(result.seconds < 2 + 5 + kLoad);
  CHECK(contains(result.output,
                 "error: watchdog: rank 1 waits in all_reduce of step 3, rank 0 is in data of step 3 since "));
  CHECK(contains(result.output, "watchdog: rank 0 is in data of step 3"));
  check_nobody_is_left(result, 2);
}

// Kills: a handler of ours that swallows the death of a rank.
TEST_CASE("a killed rank ends the job at once with a code that is not 0", "[process]") {
  const test::ProcessResult result = run_ranks(2, {"kill", "1"});
  INFO(result.output);
  CHECK(result.code == 137);
  CHECK(result.seconds < 2 + kLoad);
  check_nobody_is_left(result, 2);
}

// Kills: finalising after an exception; exit code 1 for every error; a line without step and phase.
TEST_CASE("an error of one rank ends all with its exit code and one line that says where", "[process]") {
  const test::ProcessResult result = run_ranks(2, {"throw", "1"});
  INFO(result.output);
  CHECK(result.code == 3);
  CHECK(result.seconds < 2 + kLoad);
  CHECK(contains(result.output, "error: shard 7: cannot be read (rank 1, step 3, phase data)"));
  CHECK(count_of(result.output, "error: ") == 1);
  check_nobody_is_left(result, 2);
}

// Kills: the same line from every rank.
TEST_CASE("an error that all ranks share is printed once", "[process]") {
  const test::ProcessResult result = run_ranks(4, {"throw", "-1"});
  INFO(result.output);
  CHECK(result.code == 3);
  CHECK(count_of(result.output, "error: shard 7") == 1);
}

// Kills: taking rank 0 for the right one; a rank that trains on with another configuration.
TEST_CASE("ranks that disagree are told which one is different", "[process]") {
  const test::ProcessResult result = run_ranks(3, {"disagree", "0"});
  INFO(result.output);
  CHECK(result.code == 2);
  CHECK(contains(result.output, "error: rank 0: the configuration differs"));
  CHECK(!contains(result.output, "MPI_ABORT"));
  CHECK(count_of(result.output, "error: ") == 1);
}

// Kills: counting the time in which the whole job did not run.
TEST_CASE("a job that was stopped as a whole goes on when it is continued", "[process]") {
  test::ProcessOptions options;
  bool sent = false;
  options.on_output = [&](const std::string& output, pid_t process) {
    const std::vector<pid_t> ranks = processes_in(output);
    if (sent || !contains(output, "ready") || ranks.size() < 2) return;
    sent = true;
    for (const pid_t rank : ranks) kill(rank, SIGSTOP);
    std::this_thread::sleep_for(std::chrono::milliseconds(3500));
    for (const pid_t rank : ranks) kill(rank, SIGCONT);
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    kill(process, SIGUSR1);
  };
  const test::ProcessResult result = run_ranks(2, {"signal"}, options);
  INFO(result.output);
  CHECK(result.code == 0);
  CHECK(!contains(result.output, "watchdog"));
}

// Kills: a handler that is installed after MPI's; stopping on the own flag alone.
TEST_CASE("USR1 to mpirun, or TERM to one rank, stops all ranks at the same step with code 0", "[process]") {
  for (const bool one_rank : {false, true}) {
    test::ProcessOptions options;
    bool sent = false;
    options.on_output = [&](const std::string& output, pid_t process) {
      if (sent || !contains(output, "ready") || processes_in(output).size() < 2) return;
      sent = true;
      one_rank ? kill(processes_in(output)[1], SIGTERM) : kill(process, SIGUSR1);
    };
    const test::ProcessResult result = run_ranks(2, {"signal"}, options);
    INFO(result.output);
    CHECK(result.code == 0);
    std::set<std::string> steps;
    const std::regex pattern("rank \\d stops at (step \\d+ by \\w+)");
    for (std::sregex_iterator i(result.output.begin(), result.output.end(), pattern), end; i != end; ++i) {
      steps.insert((*i)[1]);
    }
    CHECK(steps.size() == 1);
    CHECK(contains(result.output, one_rank ? "by TERM" : "by USR1"));
    CHECK(count_of(result.output, "stops at") == 2);
  }
}
