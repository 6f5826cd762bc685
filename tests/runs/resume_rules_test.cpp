// Where a run starts: what it goes on from, what it refuses, what it never loses.
#include "support/catch.h"

#include "training.h"

#include <filesystem>

using namespace sffn;
using namespace sffn::test;
namespace fs = std::filesystem;

namespace {

// Steps 0, 5, 10 of the run "run"; metrics up to step 12.
void start_run(const Workplace& place) {
  REQUIRE(place.train({.set = {"checkpoint.every=5"}, .fault = "optimizer:0:13:exit"}).code == 5);
  REQUIRE(place.saved_steps("run") == std::vector<int64_t>{0, 5, 10});
  REQUIRE(place.steps("run").rbegin()->first == 12);
}

void damage(const Workplace& place, int64_t step) {
  const std::string path = place.checkpoint("run", step) + "/model.safetensors";
  const std::string bytes = read_text(path);
  write_text(path, flip_bit(bytes, bytes.size() - 5));
}

void check_refused(const Ended& ended, int code, const std::string& says) {
  INFO(to_string(ended));
  CHECK(ended.code == code);
  REQUIRE(ended.error_lines().size() == 1);
  CHECK(ended.error_lines()[0].find(says) != std::string::npos);
}

}  // namespace

// Kills: a silent fresh start; old steps mixed with new ones, or deleted.
TEST_CASE("a fresh start is said, and --resume never moves what was there", "[runs][resume]") {
  const Workplace place;
  const Ended first = place.train();
  CHECK(first.says("fresh start"));
  const Ended again = place.train({.set = {"train.seed=8"}, .arguments = {"--resume", "never"}});
  INFO(to_string(again));
  CHECK(again.code == 0);
  CHECK(again.says("fresh start"));
  CHECK(fs::exists(place.path("run/checkpoints.replaced-1/step-00000020/checksums.json")));
  CHECK(fs::exists(place.path("run/checkpoints.replaced-1/metrics.jsonl")));
  CHECK(place.steps("run").size() == 20);
}

// Kills: records of steps that are taken again; a fallback without a line; a fresh start where nothing loads.
TEST_CASE("a damaged newest checkpoint falls back to the one before, and to none with code 3", "[runs][resume]") {
  const Workplace place;
  REQUIRE(place.train({.run = "unbroken"}).code == 0);
  start_run(place);
  damage(place, 10);
  for (const int ranks : {1, 2}) {
    fs::copy(place.path("run"), place.path(cat("run", ranks)), fs::copy_options::recursive);
    const Ended ended = place.train({.run = cat("run", ranks), .ranks = ranks});
    INFO(to_string(ended));
    CHECK(ended.code == 0);
    CHECK(ended.says("rejected step 10: "));
    CHECK(ended.says("resumed from step 5"));
    CHECK(place.steps(cat("run", ranks)) == place.steps("unbroken"));
  }
  damage(place, 5);
  damage(place, 0);
  for (const int ranks : {1, 2}) {
    check_refused(place.train({.ranks = ranks}), 3, "none of them is sound");
    CHECK(place.saved_steps("run") == std::vector<int64_t>{0, 5, 10});
    CHECK(place.steps("run").rbegin()->first == 12);
  }
}

// Kills: a changed model taken for damage; a warning where the run must stop; a refusal that touches the run.
TEST_CASE("a resumed run refuses another model, seed or content, and names other changes", "[runs][resume]") {
  const Workplace place;
  start_run(place);
  const std::string metrics = read_text(place.path("run/metrics.jsonl"));
  for (const int ranks : {1, 2}) {
    check_refused(place.train({.ranks = ranks, .set = {"model.layers=1"}}), 2, "model.layers");
  }
  check_refused(place.train({.set = {"train.seed=8"}}), 2, "train.seed");
  CHECK(read_text(place.path("run/metrics.jsonl")) == metrics);

  fs::rename(place.path("data"), place.path("sound data"));
  write_text(place.path("text/more.txt"), "another document, so that the shards are others");
  const Ended prepared = place.run({"prepare", "--input", place.path("text"), "--out", place.path("data"),
                                    "--tokenizer", "bytes", "--val-fraction", "0.2"});
  INFO(to_string(prepared));
  REQUIRE(prepared.code == 0);
  check_refused(place.train(), 3, "training data is not what the checkpoint was trained on");
  fs::remove_all(place.path("data"));
  fs::rename(place.path("sound data"), place.path("data"));
  CHECK(place.saved_steps("run") == std::vector<int64_t>{0, 5, 10});

  const Ended ended = place.train({.ranks = 2, .set = {"optimizer.lr=5e-3", "train.micro_batch=2"}});
  INFO(to_string(ended));
  CHECK(ended.code == 0);
  CHECK(ended.says("resumed from step 10"));
  CHECK(ended.says("warning: resume: optimizer.lr"));
  CHECK(!ended.says("resume: train.micro_batch"));
}
