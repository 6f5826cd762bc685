// A run that was stopped goes on as if it had not been: state hash, loss and learning rate of every step.
#include "support/catch.h"

#include "training.h"

using namespace sffn;
using namespace sffn::test;

namespace {

struct Variant {
  const char* name;
  std::vector<std::string> set;
};

std::vector<Variant> all_variants() {
  return {{"gpt, dropout, fp32", {}},
          {"gpt, dropout, bf16", {"train.precision=bf16"}},
          {"llama, fp32", {"model.backbone=llama", "model.dropout=0", "model.kv_heads=1"}},
          {"llama, bf16", {"model.backbone=llama", "model.dropout=0", "model.kv_heads=1", "train.precision=bf16"}}};
}

// Saves step `step` and ends at once in the next one, on all ranks.
Start killed_after(int64_t step, const std::string& run, const std::vector<std::string>& set, int ranks) {
  Start start{.run = run, .ranks = ranks, .set = set, .fault = cat("optimizer:*:", step + 1, ":kill")};
  start.set.push_back(cat("checkpoint.every=", step));
  return start;
}

void check_interrupted_run(const std::vector<Variant>& variants, int ranks) {
  const Workplace place;
  for (const Variant& variant : variants) {
    INFO(variant.name << " on " << ranks << " ranks");
    const Ended unbroken = place.train({.run = cat("unbroken ", variant.name), .set = variant.set});
    INFO(to_string(unbroken));
    REQUIRE(unbroken.code == 0);
    const Steps expected = place.steps(cat("unbroken ", variant.name));
    REQUIRE(expected.size() == 20);

    for (const int64_t stop : {7, 13}) {
      const Ended killed = place.train(killed_after(stop, variant.name, variant.set, ranks));
      INFO(to_string(killed));
      REQUIRE(killed.code == 137);
      REQUIRE(place.saved_steps(variant.name).back() == stop);
      REQUIRE(killed.says(stop == 7 ? "fresh start" : "resumed from step 7"));
    }
    const Ended ended = place.train({.run = variant.name, .ranks = ranks, .set = variant.set});
    INFO(to_string(ended));
    REQUIRE(ended.code == 0);
    REQUIRE(ended.says("resumed from step 13"));
    const Steps steps = place.steps(variant.name);
    for (const auto& [step, record] : expected) {
      INFO("step " << step);
      REQUIRE(steps.at(step) == record);
    }
    CHECK(steps.size() == 20);
    CHECK(steps.at(20).tokens == 20 * 256);
  }
}

}  // namespace

// Kills: moments that are not restored; bf16 weights restored without their fp32 master; a schedule or a dropout stream
// that starts anew; batches that go by the steps of this process.
TEST_CASE("a run stopped at steps 7 and 13 equals the unbroken one bitwise on one rank", "[runs][resume]") {
  check_interrupted_run(all_variants(), 1);
}

// Kills: moments of one rank only; the same samples again for a rank that resumes.
TEST_CASE("a run stopped at steps 7 and 13 equals the unbroken one bitwise on two ranks", "[runs][resume]") {
  check_interrupted_run({all_variants().front(), all_variants().back()}, 2);
}

// Kills: the same, in the remaining variants.
TEST_CASE("every variant stopped at steps 7 and 13 on two and four ranks equals the unbroken one bitwise",
          "[runs][resume][long]") {
  check_interrupted_run(all_variants(), 2);
  check_interrupted_run(all_variants(), 4);
}

// Kills: moments read by the number of the rank that wrote them; a sample order that depends on the number of ranks.
TEST_CASE("a run that goes on with 1, 2, 4 and 1 ranks equals the unbroken one bitwise", "[runs][resume]") {
  const Workplace place;
  for (const char* precision : {"fp32", "bf16"}) {
    const std::string run = cat("chain ", precision), unbroken = cat("unbroken ", precision);
    const std::vector<std::string> set = {cat("train.precision=", precision)};
    REQUIRE(place.train({.run = unbroken, .set = set}).code == 0);
    int64_t stop = 0;
    for (const int ranks : {1, 2, 4}) {
      const Ended killed = place.train(killed_after(stop += 5, run, set, ranks));
      INFO(ranks << " ranks: " << to_string(killed));
      REQUIRE(killed.code == 137);
      REQUIRE(place.saved_steps(run).back() == stop);
    }
    REQUIRE(place.train({.run = run, .set = set}).code == 0);
    CHECK(place.steps(run) == place.steps(unbroken));
    CHECK(place.steps(run).at(20).tokens == 20 * 256);
  }
}

// Kills: a total that is set behind the checks and gives a checkpoint whose configuration cannot be read.
TEST_CASE("the option --steps is train.steps: it is checked like the key and a resumed run goes on to it",
          "[runs][resume]") {
  const Workplace place;
  const std::vector<std::string> set = {"optimizer.schedule.type=constant"};
  REQUIRE(place.train({.run = "unbroken", .set = set}).code == 0);
  REQUIRE(place.train({.run = "longer", .set = set, .arguments = {"--steps", "7"}}).code == 0);
  const Ended ended = place.train({.run = "longer", .set = set});
  INFO(to_string(ended));
  REQUIRE(ended.code == 0);
  CHECK(place.steps("longer") == place.steps("unbroken"));

  const Ended refused = place.train({.run = "short", .arguments = {"--steps", "3"}});
  INFO(to_string(refused));
  CHECK(refused.code == 2);
  REQUIRE(refused.error_lines().size() == 1);
  CHECK(refused.error_lines()[0].find("warmup_steps") != std::string::npos);
}
