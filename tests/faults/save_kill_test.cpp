// A rank dies at each point of the save path; what was acknowledged loads, nothing torn does, and the run goes on.
#include "core/file.h"
#include "support/catch.h"
#include "support/fingerprints.h"
#include "support/process.h"
#include "support/temp_folder.h"
#include "train/checkpoint/names.h"
#include "train/checkpoint/run_lock.h"

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <thread>
#include <vector>

using namespace sffn;
using namespace sffn::test;

namespace {

constexpr int64_t kFatalStep = 3;  // with keep 2 it is the first that deletes an older one

struct Point {
  const char* name;
  const char* leaves;  // suffix of a folder that a kill here leaves, when any; "step-3.tmp" or "step-1.deleting"
  bool committed;      // step 3 has its name
};
constexpr std::array<Point, 14> kPoints{{{"begin", "", false},
                                         {"tmp_made", ".tmp", false},
                                         {"opened", ".tmp", false},
                                         {"mid_write", ".tmp", false},
                                         {"written", ".tmp", false},
                                         {"synced", ".tmp", false},
                                         {"before_vote", ".tmp", false},
                                         {"after_vote", ".tmp", false},
                                         {"record_written", ".tmp", false},
                                         {"before_rename", ".tmp", false},
                                         {"after_rename", "", true},
                                         {"before_latest", "", true},
                                         {"after_latest", "", true},
                                         {"mid_delete", ".deleting", true}}};

ProcessResult run_driver(int ranks, const std::string& run, int64_t last, const std::string& fault,
                         bool enable = true) {
  ProcessOptions options;
  options.environment = {"OMP_NUM_THREADS=1", fault.empty() ? "SFFN_FAULT" : "SFFN_FAULT=" + fault};
  options.limit_s = 60;
  std::vector<std::string> command{test_program("faults", "save_load_driver"), run, std::to_string(last)};
  if (enable) command.push_back("--enable-fault-injection");
  return run_process(mpirun(ranks, command), options);
}

// The last "saved step N" that reached the log.
int64_t acknowledged_in(const std::string& run) {
  const std::string log = read_text(run + "/log.txt"), line = "saved step ";
  const size_t at = log.rfind(line);
  return at == std::string::npos ? -1 : std::stoll(log.substr(at + line.size()));
}

// What the next run does: wait for the lock, resume, check every element, clean, save on.
void check_next_run(const std::string& run, int64_t at_least, int64_t at_most) {
  const auto comm = make_self_communicator();
  const RunLock lock(*comm, run);
  State state(*comm, small_model(), true);
  const Resume resume = choose_resume(*comm, run, "auto");
  REQUIRE(resume.checkpoint);
  CHECK(resume.rejected.empty());
  const int64_t step = resume.checkpoint->step;
  CHECK(step >= at_least);
  CHECK(step <= at_most);
  resume_from(*comm, *resume.checkpoint, state.parameters(), state.moments());
  REQUIRE(state.wrong(step) == 0);

  CheckpointWriter writer(*comm, run, {2, 0, 3, {}}, resume);
  const std::string folder = checkpoints_folder(run);
  for (const std::string& name : list_directory(folder)) {
    INFO(name);
    if (name != "latest") CHECK(verify_checkpoint(folder + "/" + name).empty());
  }
  state.fill(kFatalStep + 1);
  REQUIRE(writer.save(kFatalStep + 1, state.contents()));
  CHECK(verify_checkpoint(folder + "/" + step_name(kFatalStep + 1)).empty());
  CHECK(read_text(folder + "/latest") == step_name(kFatalStep + 1) + "\n");
}

// A run that is killed at one point; its folder stays for the check.
struct Case {
  const Point& point;
  int victim;
  TempFolder run{TempFolder::kMemory};
  ProcessResult result{};
};

void check_case(const Case& c) {
  INFO(c.point.name << " on rank " << c.victim << "\n" << c.result.output);
  REQUIRE(c.result.code != 0);
  REQUIRE(c.result.code != -1);
  const int64_t acknowledged = acknowledged_in(c.run.path());
  REQUIRE(acknowledged >= kFatalStep - 1);
  const std::string folder = checkpoints_folder(c.run.path()), leaves = c.point.leaves;
  if (c.victim == 0 && leaves == ".tmp") CHECK(exists(folder + "/" + step_name(kFatalStep) + ".tmp"));
  if (c.victim == 0 && leaves == ".deleting") CHECK(exists(folder + "/" + step_name(1) + ".deleting"));
  // Rank 0 renames while the others already wait behind it: their death there leaves either.
  const int64_t at_least = c.point.committed && c.victim == 0 ? kFatalStep : acknowledged;
  check_next_run(c.run.path(), at_least, c.point.committed ? kFatalStep : kFatalStep - 1);
}

// Four jobs at a time: mpirun mostly waits, a second or more after a rank was killed.
void check_all_points(int ranks, int victim) {
  constexpr size_t kTogether = 4;
  for (size_t first = 0; first < kPoints.size(); first += kTogether) {
    std::vector<std::unique_ptr<Case>> cases;
    std::vector<std::thread> jobs;
    for (size_t i = first; i < std::min(first + kTogether, kPoints.size()); ++i) {
      Case* c = cases.emplace_back(new Case{kPoints[i], victim}).get();
      jobs.emplace_back([c, ranks] {
        const std::string fault = cat(c->point.name, ":", c->victim, ":", kFatalStep, ":kill");
        c->result = run_driver(ranks, c->run.path(), kFatalStep + 2, fault);
      });
    }
    for (std::thread& job : jobs) job.join();
    for (const auto& c : cases) check_case(*c);
  }
}

}  // namespace

// Kills: writes in the final folder, latest first, the previous step deleted first, a .tmp that stays.
TEST_CASE("one rank alone may die at any point of a save", "[faults]") { check_all_points(1, 0); }

// Kills: a rename that does not wait for the other ranks' files, a lock that a dead rank leaves behind.
TEST_CASE("rank 0 of 2 may die at any point of a save", "[faults]") { check_all_points(2, 0); }

// Kills: a commit without the vote of a rank that died.
TEST_CASE("the last rank of 2 may die at any point of a save", "[faults]") { check_all_points(2, 1); }

// Kills: a failure that stays on its rank, a line without rank or file.
TEST_CASE("a rank that cannot write costs one step and one line, not the run", "[faults]") {
  TempFolder run(TempFolder::kMemory);
  const ProcessResult result = run_driver(2, run.path(), 3, "mid_write:1:2:enospc");
  INFO(result.output);
  CHECK(result.code == 0);
  const std::string line = "save of step 2 failed: rank 1: ";
  const size_t at = result.output.find(line);
  REQUIRE(at != std::string::npos);
  CHECK(result.output.find(line, at + 1) == std::string::npos);
  const std::string rest = result.output.substr(at, result.output.find('\n', at) - at);
  CHECK(rest.find("optimizer-00001-of-00002.safetensors: cannot write: No space left on device") != std::string::npos);
  CHECK(committed_steps(checkpoints_folder(run.path())) == std::vector<int64_t>{3, 1});
}

// Kills: fault injection that needs no flag.
TEST_CASE("a fault in the environment is ignored by a process that was not told to inject", "[faults]") {
  TempFolder run(TempFolder::kMemory);
  const ProcessResult result = run_driver(1, run.path(), 2, "begin:*:*:kill", false);
  CHECK(result.code == 0);
  CHECK(acknowledged_in(run.path()) == 2);
}
