// Runs whose blocks are spread over ranks, under the real mpirun.
#include "core/file.h"
#include "core/safetensors.h"
#include "support/catch.h"
#include "support/paths.h"

#include "training.h"

#include <algorithm>
#include <filesystem>

using namespace sffn;
using namespace sffn::test;

namespace {

// The workplace's model with 8 blocks in its second layer, of which tokens take 2; an even share of micro-batches for
// up to 8 ranks.
void add_blocks(const Workplace& place, const std::string& method) {
  Json config = place.config();
  config["model"]["sparse_ffn"] =
      parse_json(cat(R"([{"layers": [1], "type": ")", method, R"(", "cells": 128, "block_size": 16, "active_blocks": )",
                     method == "switch" ? 1 : 2, "}]"),
                 "entry", ExitCode::kUsage);
  place.write_config(config);
}

Steps steps_with(const Workplace& place, Start start) {
  const Ended ended = place.train(start);
  INFO(start.run << ": " << to_string(ended));
  REQUIRE(ended.code == 0);
  Steps steps = place.steps(start.run);
  REQUIRE(steps.size() == 20);
  return steps;
}

void check_near(const Steps& found, const Steps& expected) {
  for (const auto& [step, record] : expected) {
    INFO("step " << step);
    CHECK(found.at(step).loss == Approx(record.loss).epsilon(1e-5));
    CHECK(found.at(step).gradient_norm == Approx(record.gradient_norm).epsilon(1e-4));
  }
}

}  // namespace

// Kills: MPI transfers of another count or order than the threads' of the other tests; an evaluation that some ranks
// leave early.
TEST_CASE("2 and 4 ranks that share blocks train, evaluate and resume as one rank does", "[runs][expert]") {
  for (const char* method : {"avg_k", "switch"}) {
    const Workplace place;
    add_blocks(place, method);
    const Steps one = steps_with(place, {.run = "1"});
    for (const char* dispatch : {"gather", "all_to_all"}) {
      INFO(method << ", " << dispatch);
      const std::vector<std::string> set = {"parallel.expert=2", cat("parallel.dispatch=", dispatch)};
      check_near(steps_with(place, {.run = cat("2 ", dispatch), .ranks = 2, .set = set}), one);
    }
    const Steps four = steps_with(
        place,
        {.run = "4", .ranks = 4, .set = {"parallel.expert=4", "checkpoint.every=10", "parallel.expert_chunk=7"}});
    check_near(four, one);
    // Another layout goes on from the middle.
    const Ended resumed = place.train({.run = "resumed",
                                       .ranks = 2,
                                       .set = {"parallel.expert=2", "parallel.zero=0"},
                                       .arguments = {"--resume", place.checkpoint("4", 10)}});
    INFO(to_string(resumed));
    REQUIRE(resumed.code == 0);
    const Steps rest = place.steps("resumed");
    CHECK(rest.begin()->first == 11);
    for (const auto& [step, record] : rest) CHECK(record.loss == Approx(four.at(step).loss).epsilon(1e-5));
  }
}

// Kills: a wait for other ranks' tokens that the watchdog takes for work; a job that outlives one of its ranks.
TEST_CASE("a rank stopped or killed amid the exchange of tokens ends the job, which names it",
          "[runs][expert][watchdog]") {
  const Workplace place;
  add_blocks(place, "avg_k");
  for (const char* fault : {"data:1:8:stop", "forward and backward:1:8:stop"}) {
    const Ended ended = place.train(
        {.run = fault, .ranks = 2, .set = {"parallel.expert=2", "train.watchdog.step_seconds=3"}, .fault = fault});
    INFO(fault << ": " << to_string(ended));
    CHECK(ended.code == 1);
    CHECK(ended.seconds < 15);
    REQUIRE(ended.error_lines().size() == 1);
    CHECK(ended.error_lines()[0].find("rank 0 waits in forward and backward of step 8, rank 1 (process ") !=
          std::string::npos);
  }
  const Ended killed = place.train(
      {.run = "killed", .ranks = 2, .set = {"parallel.expert=2"}, .fault = "forward and backward:1:8:kill"});
  INFO(to_string(killed));
  CHECK(killed.code == 137);
  CHECK(killed.seconds < 10);
}

// Kills: fingerprints that are written and not compared; those of one layout alone.
TEST_CASE("a block in another one's place ends a resume with code 3, which names it", "[runs][expert]") {
  const Workplace place;
  add_blocks(place, "avg_k");
  REQUIRE(place.train({.run = "run", .ranks = 2, .set = {"parallel.expert=2", "checkpoint.every=10"}}).code == 0);
  const std::string model = place.checkpoint("run", 10) + "/model.safetensors";
  const SafetensorsFile file(model);
  const SafetensorsEntry& keys = *file.find("layers.1.ffn.keys.weight");
  std::string bytes = read_file(model, 1 << 24, ExitCode::kDamaged);
  const size_t block = static_cast<size_t>(keys.numel()) / 8 * sizeof(float), first = keys.begin;
  std::swap_ranges(bytes.begin() + static_cast<int64_t>(first + 2 * block),
                   bytes.begin() + static_cast<int64_t>(first + 3 * block),
                   bytes.begin() + static_cast<int64_t>(first + 5 * block));
  write_file_atomically(model, bytes);
  for (const int ranks : {1, 4}) {
    const Ended ended = place.train({.run = cat("on ", ranks),
                                     .ranks = ranks,
                                     .set = {cat("parallel.expert=", ranks)},
                                     .arguments = {"--no-verify", "--resume", place.checkpoint("run", 10)}});
    INFO(to_string(ended));
    CHECK(ended.code == 3);
    REQUIRE(ended.error_lines().size() == 1);
    CHECK(ended.error_lines()[0].find("block 2 of layers.1.ffn is not what was saved") != std::string::npos);
  }
}

// Kills: ranks of two builds, or of two configurations, that train together.
TEST_CASE("ranks of another program or another configuration end the job with code 2, which names them", "[runs]") {
  const Workplace place;
  const std::string other_program = place.path("other-sffn"), config = place.path("config.json");
  write_file_atomically(other_program, read_file(SFFN_BINARY, size_t{1} << 30, ExitCode::kUsage) + "\n");
  std::filesystem::permissions(other_program, std::filesystem::perms::owner_all);
  Json other = place.config();
  other["train"]["seed"] = int64_t{77};
  place.write_config(other, "other.json");
  const auto train = [&](const std::string& program, const std::string& with) {
    const std::string run = place.path("together");
    return place.run({"train", config, "--run", run, ":", "-np", "1", program, "train", with, "--run", run}, 2);
  };
  const Ended programs = train(other_program, config), configs = train(SFFN_BINARY, place.path("other.json"));
  INFO(to_string(programs) << to_string(configs));
  CHECK((programs.code == 2 && configs.code == 2));
  CHECK((programs.seconds < 20 && configs.seconds < 20));
  CHECK(programs.error_lines() ==
        std::vector<std::string>{"error: rank 2: the program differs from that of the other ranks; start all with the "
                                 "same"});
  CHECK(configs.error_lines() ==
        std::vector<std::string>{"error: rank 2: the configuration differs from that of the other ranks; start all "
                                 "with the same"});
}

// Kills: an error that every rank prints, or that leaves some ranks waiting.
TEST_CASE("a layout of blocks that does not fit ends all ranks with one line and code 2", "[runs][expert]") {
  const Workplace place;
  add_blocks(place, "avg_k");
  struct Case {
    int ranks;
    const char* set;
    const char* says;
  };
  for (const Case& c : {Case{3, "parallel.expert=2", "parallel.expert: is 2, which does not divide the 3 ranks"},
                        Case{2, "parallel.expert=4", "parallel.expert: is 4, which does not divide the 2 ranks"},
                        Case{4, "parallel.dispatch=scatter", "parallel.dispatch: is \"scatter\""}}) {
    const Ended ended = place.train({.run = "bad", .ranks = c.ranks, .set = {c.set}});
    INFO(to_string(ended));
    CHECK(ended.code == 2);
    CHECK(ended.seconds < 10);
    REQUIRE(ended.error_lines().size() == 1);
    CHECK(ended.error_lines()[0].find(c.says) != std::string::npos);
  }
}
