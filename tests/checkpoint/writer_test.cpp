// The run's side: what is kept, what gives way, what a failed save leaves, and what another run may not touch.
#include "comm/threads.h"
#include "core/fault.h"
#include "core/file.h"
#include "support/catch.h"
#include "support/error_of.h"
#include "support/fingerprints.h"
#include "support/temp_folder.h"
#include "train/checkpoint/names.h"
#include "train/checkpoint/record.h"
#include "train/checkpoint/run_lock.h"

#include <sys/mount.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <functional>

using namespace sffn;
using namespace sffn::test;
namespace fs = std::filesystem;

namespace {

const std::unique_ptr<Communicator>& alone() {
  static const std::unique_ptr<Communicator> comm = make_self_communicator();
  return comm;
}

struct Run : TempFolder {
  Run() : TempFolder(kMemory) {}
  std::string step(int64_t n) const { return path() + "/checkpoints/" + step_name(n); }
  std::vector<int64_t> steps() const { return committed_steps(path() + "/checkpoints"); }
  std::vector<std::string> names() const { return list_directory(path() + "/checkpoints"); }
};

CheckpointContents contents_of(State& state, int64_t fill, const char* name = "test") {
  state.fill(fill);
  CheckpointContents contents = state.contents();
  contents.config["name"] = name;
  return contents;
}

void save(CheckpointWriter& writer, int64_t step, const char* name = "test") {
  State state(*alone(), small_model(), true);
  REQUIRE(writer.save(step, contents_of(state, step, name)));
}

void damage(const std::string& folder) {
  std::string bytes = read_text(folder + "/model.safetensors");
  bytes.back() ^= 1;
  write_text(folder + "/model.safetensors", bytes);
}

// Faults armed for the time of one test.
struct Injected {
  explicit Injected(const std::string& fault) {
    setenv("SFFN_FAULT", fault.c_str(), 1);
    enable_fault_injection(0);
  }
  ~Injected() {
    unsetenv("SFFN_FAULT");
    enable_fault_injection(0);
  }
};

}  // namespace

// Kills: counting from the oldest, deleting multiples, damaged steps counted in keep, deleting the newest at keep 0.
TEST_CASE("the newest sound steps and the multiples of keep_every stay", "[checkpoint][writer]") {
  {
    Run run;
    CheckpointWriter writer(*alone(), run.path(), {2, 40, 3, {}}, {});
    for (int64_t step = 0; step <= 90; step += 10) save(writer, step);
    CHECK(run.steps() == std::vector<int64_t>{90, 80, 40, 0});
    CHECK(run.names() == std::vector<std::string>{"latest", step_name(0), step_name(40), step_name(80), step_name(90)});
  }
  {
    Run run;
    CheckpointWriter first(*alone(), run.path(), {3, 0, 3, {}}, {});
    for (const int64_t step : {10, 20, 30}) save(first, step);
    damage(run.step(30));
    fs::remove(run.step(20) + "/trainer.json");
    const Resume resume = choose_resume(*alone(), run.path(), "auto");
    CHECK(resume.rejected == std::vector<int64_t>{30, 20});
    CheckpointWriter second(*alone(), run.path(), {2, 0, 3, {}}, resume);
    save(second, 40);
    CHECK(run.steps() == std::vector<int64_t>{40, 30, 20, 10});
    save(second, 50);
    CHECK(run.steps() == std::vector<int64_t>{50, 40, 30, 20});
    CHECK(second.newest() == 50);
  }
  {
    Run run;
    CheckpointWriter writer(*alone(), run.path(), {0, 0, 3, {}}, {});
    for (const int64_t step : {10, 20}) save(writer, step);
    CHECK(run.steps() == std::vector<int64_t>{20});
  }
}

// Kills: an older torn step, never looked at by this run, taking the place of a sound one in keep.
TEST_CASE("a torn older step does not count as kept", "[checkpoint][writer]") {
  Run run;
  CheckpointWriter first(*alone(), run.path(), {4, 0, 3, {}}, {});
  for (const int64_t step : {10, 20, 30}) save(first, step);
  fs::remove(run.step(20) + "/checksums.json");
  CheckpointWriter second(*alone(), run.path(), {3, 0, 3, {}}, choose_resume(*alone(), run.path(), "auto"));
  save(second, 40);
  CHECK(run.steps() == std::vector<int64_t>{40, 30, 20, 10});
}

// Kills: rewriting an equal step, removing the old before the new, overwriting another configuration's step.
TEST_CASE("a step that exists is kept when equal, set aside when damaged, exchanged when other, refused when foreign",
          "[checkpoint][writer]") {
  Run run;
  CheckpointWriter writer(*alone(), run.path(), {}, {});
  State state(*alone(), small_model(), true);
  const auto inode = [&] {
    struct stat info;
    REQUIRE(stat((run.step(10) + "/model.safetensors").c_str(), &info) == 0);
    return info.st_ino;
  };
  const auto loaded = [&](int64_t fill) {
    state.poison();
    resume_from(*alone(), find_checkpoint(*alone(), run.step(10)), state.parameters(), state.moments());
    return state.wrong(fill) == 0;
  };
  REQUIRE(writer.save(10, contents_of(state, 1)));
  const auto before = inode();
  REQUIRE(writer.save(10, contents_of(state, 1)));
  CHECK(inode() == before);
  REQUIRE(writer.save(10, contents_of(state, 2)));
  CHECK(inode() != before);
  CHECK(loaded(2));
  damage(run.step(10));
  REQUIRE(writer.save(10, contents_of(state, 3)));
  CHECK(loaded(3));
  CHECK(exists(run.step(10) + ".damaged"));
  const CheckpointContents foreign = contents_of(state, 4, "other");
  const Caught error = error_of([&] { writer.save(10, foreign); });
  CHECK(error.code == ExitCode::kUsage);
  CHECK(error.says("another configuration"));
  CHECK(loaded(3));
  CHECK(run.names() == std::vector<std::string>{"latest", step_name(10), step_name(10) + ".damaged"});
}

// Kills: a failure that is not voted on, a left .tmp, a damaged previous step, a counter that is never reset.
TEST_CASE("a failed save leaves the previous step, says so, and ends the run at the third in a row",
          "[checkpoint][writer]") {
  for (const char* point : {"tmp_made", "opened", "mid_write", "written", "synced", "before_vote", "after_vote",
                            "record_written", "before_rename"}) {
    INFO(point);
    Run run;
    State state(*alone(), small_model(), true);
    CheckpointWriter writer(*alone(), run.path(), {}, {});
    save(writer, 10);
    const auto fails = [&](int64_t step, bool last = false) {
      const Injected fault(std::string(point) + ":*:*:enospc");
      return !writer.save(step, contents_of(state, step), last);
    };
    CHECK(fails(20));
    CHECK(run.names() == std::vector<std::string>{"latest", step_name(10)});
    CHECK(verify_checkpoint(run.step(10)).empty());
    CHECK(fails(30));
    save(writer, 40);
    CHECK(fails(50));
    CHECK(fails(60));
    const Caught error = error_of([&] { fails(70); });
    CHECK(error.code == ExitCode::kRunFailed);
    CHECK(error.says("save of step 70 failed"));
    CHECK(error.says("No space left on device"));
    CHECK(choose_resume(*alone(), run.path(), "auto").checkpoint->step == 40);

    CheckpointWriter other(*alone(), run.path(), {}, {});
    const Injected fault(std::string(point) + ":*:*:eio");
    CHECK(error_of([&] { other.save(50, contents_of(state, 50), true); }).says("Input/output"));
  }
}

// Kills: ranks that wait for one that failed, or that do not learn of its failure.
TEST_CASE("the failure of any one rank is the failure of all, and they go on together", "[checkpoint][writer]") {
  for (const char* point : {"begin", "tmp_made", "opened", "mid_write", "written", "synced", "before_vote",
                            "after_vote", "record_written"}) {
    Run run;
    const Injected fault(std::string(point) + ":0:20:enospc");  // strikes once: one rank, whichever comes first
    run_threads(3, [&](Communicator& comm) {
      State state(comm, small_model(), false);
      CheckpointWriter writer(comm, run.path(), {}, {});
      SFFN_CHECK(writer.save(10, contents_of(state, 10)), "the first save");
      SFFN_CHECK(!writer.save(20, contents_of(state, 20)), "every rank sees the failure");
      SFFN_CHECK(writer.save(30, contents_of(state, 30)), "the next save");
    });
    CHECK(run.names() == std::vector<std::string>{"latest", step_name(10), step_name(30)});
  }
}

// Kills: a write whose error is not looked at; a full disk that ends the run.
TEST_CASE("a full disk fails the save and keeps the previous step", "[checkpoint][writer]") {
  TempFolder disk(TempFolder::kMemory);
  if (mount("sffn-test", disk.path().c_str(), "tmpfs", 0, "size=96k") != 0) {
    WARN("no small file system can be mounted here; the injected ENOSPC stands for it");
    return;
  }
  {
    State state(*alone(), small_model(), true);
    CheckpointWriter writer(*alone(), disk.path(), {10, 0, 100, {}}, {});
    int64_t step = 0;
    while (writer.save(step, contents_of(state, step))) REQUIRE(++step < 100);
    CHECK(step >= 2);
    CHECK_FALSE(writer.save(step, contents_of(state, step)));
    CHECK(committed_steps(disk / "checkpoints").front() == step - 1);
    CHECK(verify_checkpoint(disk / ("checkpoints/" + step_name(step - 1))).empty());
    CHECK_FALSE(exists(disk / ("checkpoints/" + step_name(step) + ".tmp")));
    fs::remove_all(disk / ("checkpoints/" + step_name(0)));
    CHECK(writer.save(step, contents_of(state, step)));
  }
  CHECK(umount(disk.path().c_str()) == 0);
}

// Kills: a hint that cannot be written ending the save.
TEST_CASE("a step is saved although latest cannot be written", "[checkpoint][writer]") {
  Run run;
  CheckpointWriter writer(*alone(), run.path(), {}, {});
  make_directories(run / "checkpoints/latest.tmp/x");
  save(writer, 10);
  save(writer, 20);
  CHECK(run.steps() == std::vector<int64_t>{20, 10});
  CHECK(choose_resume(*alone(), run.path(), "auto").checkpoint->step == 20);
}

// Kills: cleaning by prefix, following links, deleting what is not ours.
TEST_CASE("leftovers of killed runs are removed, and nothing else is touched", "[checkpoint][writer]") {
  Run run;
  const std::string folder = run / "checkpoints", outside = run / "outside";
  make_directories(outside);
  write_text(outside + "/precious", "x");
  const std::vector<std::string> foreign{"notes.tmp",          "step-1.tmp",           "step-00000001.tmpx",
                                         "step-000000001.tmp", "step-00000001.backup", "latest.tmp2",
                                         "step-0000000x.tmp",  "step-00000009.damaged"};
  for (const std::string& name : foreign) make_directories(folder + "/" + name);
  make_directories(folder + "/step-00000003.tmp/deep");
  make_directories(folder + "/step-00000004.deleting");
  fs::create_directory_symlink(outside, folder + "/step-00000005.tmp");
  fs::create_directory_symlink(outside, folder + "/step-00000003.tmp/deep/link");
  write_text(folder + "/latest.tmp", "x");
  CheckpointWriter writer(*alone(), run.path(), {}, {});
  std::vector<std::string> expected = foreign;
  std::sort(expected.begin(), expected.end());
  CHECK(run.names() == expected);
  CHECK(read_text(outside + "/precious") == "x");
}

// Kills: a fresh start on a typo, on damage, or where only the hint survived; no fresh start where nothing was saved.
TEST_CASE("a fresh start happens only where nothing was saved, or on request", "[checkpoint][resume]") {
  const auto resume = [](const Run& run, const std::string& mode) { return choose_resume(*alone(), run.path(), mode); };
  Run run;
  CHECK_FALSE(resume(run, "auto").checkpoint);
  make_directories(run / "checkpoints/step-00000010.tmp");
  CHECK_FALSE(resume(run, "auto").checkpoint);
  CHECK(error_of([&] { resume(run, "auot"); }).says("no sound checkpoint"));
  for (const char* trace : {"latest", "step-00000010.damaged", "step-00000010.deleting", "step-00000010"}) {
    Run other;
    make_directories(other / "checkpoints");
    write_text(other / (std::string("checkpoints/") + trace), "x");
    INFO(trace);
    CHECK(error_of([&] { resume(other, "auto"); }).says("--resume never"));
  }
}

// Kills: mixing two histories: older steps kept beside newer ones of another branch, or metrics of both in one file.
TEST_CASE("steps that are not continued move to a folder of their own", "[checkpoint][resume]") {
  Run run;
  {
    CheckpointWriter writer(*alone(), run.path(), {}, {});
    for (const int64_t step : {10, 20, 30}) save(writer, step);
    write_text(run / "metrics.jsonl", "{\"step\": 30}\n");
  }
  {
    const Resume resume = choose_resume(*alone(), run.path(), run.step(20) + "/");
    CHECK(resume.checkpoint->step == 20);
    CHECK(run.steps() == std::vector<int64_t>{30, 20, 10});
    CheckpointWriter writer(*alone(), run.path(), {}, resume);
    CHECK(run.steps() == std::vector<int64_t>{20, 10});
    CHECK(verify_checkpoint(run / "checkpoints.replaced-1/step-00000030").empty());
    CHECK(exists(run / "metrics.jsonl"));
    save(writer, 25);
  }
  {
    const Resume resume = choose_resume(*alone(), run.path(), "never");
    CHECK_FALSE(resume.checkpoint);
    CheckpointWriter writer(*alone(), run.path(), {}, resume);
    CHECK(run.names().empty());
    CHECK(list_directory(run / "checkpoints.replaced-2") ==
          std::vector<std::string>{"latest", "metrics.jsonl", step_name(10), step_name(20), step_name(25)});
  }
  Run elsewhere;
  CheckpointWriter writer(*alone(), elsewhere.path(), {}, {});
  save(writer, 5);
  const Resume resume = choose_resume(*alone(), elsewhere.path(), run / "checkpoints.replaced-1/step-00000030");
  CHECK(resume.replaced == std::vector<std::string>{"latest", step_name(5)});
}

// Kills: a run's folder that only evaluation takes; its first step, or a damaged one; steps that follow left in place.
TEST_CASE("a run's folder stands for its newest sound step, in resuming too", "[checkpoint][resume]") {
  Run run, elsewhere;
  CheckpointWriter writer(*alone(), run.path(), {}, {});
  for (const int64_t step : {10, 20, 30}) save(writer, step);
  damage(run.step(30));
  const Resume own = choose_resume(*alone(), run.path(), run.path());
  CHECK(own.checkpoint->step == 20);
  CHECK(own.replaced == std::vector<std::string>{step_name(30)});
  CHECK(choose_resume(*alone(), elsewhere.path(), run.path() + "/").checkpoint->folder == own.checkpoint->folder);
  std::filesystem::create_directories(elsewhere / "checkpoints");
  const Caught error = error_of([&] { choose_resume(*alone(), run.path(), elsewhere.path()); });
  CHECK(error.code == ExitCode::kDamaged);
  CHECK(error.says("holds no sound checkpoint; the newest sound checkpoint is " + run.step(20)));
}

// Kills: falling back from a checkpoint that was asked for by name.
TEST_CASE("a named checkpoint that is damaged is exit code 3 and names the newest sound one", "[checkpoint][resume]") {
  Run run;
  CheckpointWriter writer(*alone(), run.path(), {}, {});
  for (const int64_t step : {10, 20}) save(writer, step);
  damage(run.step(20));
  const Caught error = error_of([&] { choose_resume(*alone(), run.path(), run.step(20)); });
  CHECK(error.code == ExitCode::kDamaged);
  CHECK(error.says("model.safetensors: bytes [0, "));
  CHECK(error.says("newest sound checkpoint is " + run.step(10)));
  CHECK(find_checkpoint(*alone(), run.path()).step == 10);
}

// Kills: a lock that is not exclusive, that outlives its holder, or that does not wait.
TEST_CASE("one run writes in a folder at a time", "[checkpoint][lock]") {
  Run run;
  {
    const RunLock lock(*alone(), run / "new/run");
    const auto start = std::chrono::steady_clock::now();
    const Caught error = error_of([&] { RunLock(*alone(), run / "new/run", 0.2); });
    CHECK(error.code == ExitCode::kUsage);
    CHECK(error.says("another run still writes here"));
    CHECK(std::chrono::steady_clock::now() - start >= std::chrono::milliseconds(200));
  }
  run_threads(2, [&](Communicator& comm) { RunLock(comm, run / "new/run", 0); });
  write_text(run / "file", "x");
  CHECK(error_of([&] { RunLock(*alone(), run / "file/run", 0); }).code == ExitCode::kUsage);
}

// Kills: keeping a torn line, cutting the resumed step itself, comparing steps as text.
TEST_CASE("metrics beyond the resumed step and a torn last line are cut", "[checkpoint][metrics]") {
  Run run;
  const std::string path = run / "metrics.jsonl";
  const std::string good = "{\"step\": 9, \"loss\": 1.0}\n{\"step\": 10, \"eval\": {\"in\": {}}}\n";
  trim_metrics(path, 10);
  CHECK_FALSE(exists(path));
  for (const char* tail :
       {"", "{\"step\": 11}\n", "{\"step\": 100}\n{\"step\": 1", "{\"step\": 1}", "\n", "garbage\n"}) {
    write_text(path, good + tail);
    trim_metrics(path, 10);
    CHECK(read_text(path) == good);
    CHECK_FALSE(exists(path + ".tmp"));
  }
  write_text(path, good);
  const auto before = fs::last_write_time(path);
  trim_metrics(path, 10);
  CHECK(fs::last_write_time(path) == before);
  trim_metrics(path, 9);
  CHECK(read_text(path) == good.substr(0, good.find('\n') + 1));
  std::string many;
  for (int step = 0; step < 60000; ++step)
    many += "{\"step\": " + std::to_string(step) + ", \"note\": \"0123456789\"}\n";
  write_text(path, many);
  trim_metrics(path, 49999);
  CHECK(read_text(path) == many.substr(0, many.find("{\"step\": 50000")));
}
