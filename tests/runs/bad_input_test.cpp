// What a run refuses: one clear line on stderr, the right exit code, nothing lost.
#include "support/catch.h"

#include "training.h"

#include <algorithm>
#include <filesystem>

using namespace sffn;
using namespace sffn::test;
namespace fs = std::filesystem;

namespace {

struct Refusal {
  const char* name;
  int code;
  const char* says;  // part of the line
  Start start;
};

void check_refused(const Ended& ended, const Refusal& refusal) {
  INFO(refusal.name << ": " << to_string(ended));
  CHECK(ended.code == refusal.code);
  REQUIRE(ended.error_lines().size() == 1);
  CHECK(ended.error_lines()[0].find(refusal.says) != std::string::npos);
}

Json with_path(const Workplace& place, const std::string& glob) {
  Json config = place.config();
  config["data"]["train"].as_array()[0]["path"] = glob;
  return config;
}

// Replaces the shard by `bytes` as long as the object lives.
class ChangedShard {
 public:
  ChangedShard(const Workplace& place, const std::string& bytes) : path_(shard_of(place)), sound_(read_text(path_)) {
    write_text(path_, bytes);
  }
  ~ChangedShard() { write_text(path_, sound_); }
  static std::string shard_of(const Workplace& place) {
    for (const auto& entry : fs::directory_iterator(place.path("data"))) {
      if (entry.path().filename().string().starts_with("train-")) return entry.path().string();
    }
    throw std::runtime_error("no shard");
  }

 private:
  std::string path_, sound_;
};

}  // namespace

// Kills: a default for an unreadable value; a check on rank 0 only, which leaves the others in a collective; one line
// from each rank.
TEST_CASE("a configuration that cannot be run ends with code 2 and one line, alone and under mpirun", "[runs][bad]") {
  const Workplace place;
  place.write_config(with_path(place, place.path("nothing/train-*.bin")), "empty.json");
  write_text(place.path("file"), "");
  const std::vector<Refusal> refusals = {
      {"unknown key", 2, "train.stesp", {.set = {"train.stesp=3"}}},
      {"wrong type", 2, "train.steps", {.set = {"train.steps=many"}}},
      {"missing file", 2, "absent.json", {.config = "absent.json"}},
      {"vocabulary", 2, "vocabulary of 257", {.set = {"model.vocab_size=200"}}},
      {"zero", 2, "d_model", {.set = {"model.d_model=0"}}},
      {"negative", 2, "layers", {.set = {"model.layers=-1"}}},
      {"heads", 2, "heads", {.set = {"model.heads=3"}}},
      {"context", 2, "context", {.set = {"model.context=1000000", "train.tokens_per_step=1000000"}}},
      {"run folder", 2, "file", {.run = "file/run"}},
      {"too few micro-batches", 2, "micro_batch", {.set = {"train.micro_batch=3"}}}};
  for (const Refusal& refusal : refusals) {
    check_refused(place.train(refusal.start), refusal);
    CHECK(!fs::exists(place.path("run/checkpoints")));
  }
  for (const size_t chosen : {0, 3, 8, 9}) {
    Start start = refusals[chosen].start;
    start.ranks = 2;
    check_refused(place.train(start), refusals[chosen]);
  }
}

// Kills: training on what is left of the data; an id used as an index without a check; a shard read without its
// checksum.
TEST_CASE("missing or damaged training data ends with code 3 and names the file", "[runs][bad]") {
  const Workplace place;
  const std::string shard = ChangedShard::shard_of(place), name = fs::path(shard).filename().string();
  const std::string sound = read_text(shard);
  for (const int ranks : {1, 2}) {
    INFO(ranks << " ranks");
    {
      const ChangedShard changed(place, flip_bit(sound, sound.size() / 2));
      check_refused(place.train({.ranks = ranks}), {"bit flip", 3, name.c_str(), {}});
    }
    {
      const ChangedShard changed(place, sound.substr(0, sound.size() - 2));
      check_refused(place.train({.ranks = ranks}), {"short", 3, name.c_str(), {}});
    }
    fs::rename(shard, place.path("aside"));
    check_refused(place.train({.ranks = ranks}), {"missing", 3, "no token shard matches", {}});
    fs::rename(place.path("aside"), shard);
  }
  // Without a manifest nothing but the ids themselves can tell.
  fs::rename(place.path("data/manifest.json"), place.path("manifest"));
  std::string high = sound;
  std::fill(high.begin() + 1024, high.end(), '\x7f');  // behind the header
  const ChangedShard changed(place, high);
  check_refused(place.train({.run = "ids", .set = {"model.vocab_size=257"}}), {"id", 3, name.c_str(), {}});
}

// Kills: a stated vocabulary replaced by that of the data.
TEST_CASE("a stated vocabulary above that of the data is the model's", "[runs]") {
  const Workplace place;
  REQUIRE(place.train({.set = {"model.vocab_size=300", "train.steps=5"}}).code == 0);
  const Json config = parse_json(read_text(place.path("run/config.json")), "config", ExitCode::kUsage);
  CHECK(config.find("model")->find("vocab_size")->as_int() == 300);
}

// Kills: an update before the check; a record that says the run is done.
TEST_CASE("a loss that is not finite stops the run before the update", "[runs][bad]") {
  const Workplace place;
  for (const int ranks : {1, 2}) {
    const std::string run = cat("run ", ranks);
    const Ended ended = place.train(
        {.run = run, .ranks = ranks, .set = {"optimizer.lr=1e38", "optimizer.clip=0", "checkpoint.every=1"}});
    check_refused(ended, {"non-finite", 1, "step ", {}});
    const Json end = place.last_record(run);
    CHECK(end.find("end")->as_string() == "failed");
    const int64_t saved = end.find("saved_step")->as_int();
    CHECK(saved == place.steps(run).rbegin()->first);
    CHECK(place.saved_steps(run).back() == saved);
    CHECK(place.verifies(run, saved));
  }
}

// Kills: a failed save that ends the run at once, or never; a failure that removes the step before.
TEST_CASE("the run survives a failed save and ends with code 1 after several in a row", "[runs][bad]") {
  const Workplace place;
  const Ended once = place.train({.run = "once", .set = {"checkpoint.every=5"}, .fault = "written:0:5:enospc"});
  INFO(to_string(once));
  CHECK(once.code == 0);
  CHECK(once.says("save of step 5 failed"));
  CHECK(place.saved_steps("once") == std::vector<int64_t>{0, 10, 15, 20});

  REQUIRE(place.train({.run = "full", .set = {"checkpoint.every=1"}, .fault = "optimizer:0:3:exit"}).code == 5);
  for (const int ranks : {1, 2}) {
    const Ended ended =
        place.train({.run = "full", .ranks = ranks, .set = {"checkpoint.every=1"}, .fault = "written:*:*:enospc"});
    check_refused(ended, {"full disk", 1, "No space left", {}});
    CHECK(ended.says("resumed from step 2"));
    CHECK(place.saved_steps("full") == std::vector<int64_t>{0, 1, 2});
    CHECK(place.steps("full").rbegin()->first == 5);
    CHECK(place.last_record("full").find("end")->as_string() == "failed");
    CHECK(place.verifies("full", 2));
  }
}
