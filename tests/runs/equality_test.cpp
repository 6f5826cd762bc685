// What may not change a run: the number of ranks and threads, recomputation.
#include "support/catch.h"

#include "training.h"

using namespace sffn;
using namespace sffn::test;

namespace {

Steps steps_with(const Workplace& place, const std::string& name, Start start) {
  start.run = name;
  const Ended ended = place.train(start);
  INFO(name << ": " << to_string(ended));
  REQUIRE(ended.code == 0);
  Steps steps = place.steps(name);
  REQUIRE(steps.size() == 20);
  return steps;
}

}  // namespace

// Kills: a sum of gradients in the order of ranks; a norm over ZeRO ranges; dropout by the row of the rank's batch.
TEST_CASE("1, 2 and 4 ranks give the same losses and weights bitwise", "[runs][equality]") {
  const Workplace place;
  for (const char* precision : {"fp32", "bf16"}) {
    const std::vector<std::string> set = {cat("train.precision=", precision)};
    const Steps one = steps_with(place, cat("1 ", precision), {.set = set});
    for (const int ranks : {2, 4}) {
      INFO(ranks << " ranks, " << precision);
      CHECK(steps_with(place, cat(ranks, " ", precision), {.ranks = ranks, .set = set}) == one);
    }
  }
}

// Kills: a tree that is cut for up to four ranks.
TEST_CASE("8 ranks, and 3 that share 8 micro-batches unevenly, equal one rank bitwise", "[runs][equality][long]") {
  const Workplace place;
  const Steps one = steps_with(place, "1", {});
  CHECK(steps_with(place, "3", {.ranks = 3}) == one);
  CHECK(steps_with(place, "8", {.ranks = 8}) == one);
}

// Kills: a reduction cut by the number of threads.
TEST_CASE("1, 2 and 4 threads give the same losses and weights bitwise", "[runs][equality]") {
  const Workplace place;
  for (const char* precision : {"fp32", "bf16"}) {
    const std::vector<std::string> set = {cat("train.precision=", precision), "train.micro_batch=4"};
    const Steps one = steps_with(place, cat("1 ", precision), {.set = set});
    for (const int threads : {2, 4}) {
      INFO(threads << " threads, " << precision);
      CHECK(steps_with(place, cat(threads, " ", precision), {.set = set, .threads = threads}) == one);
    }
    CHECK(steps_with(place, cat("2 x 2 ", precision), {.ranks = 2, .set = set, .threads = 2}) == one);
  }
}

// Kills: another dropout mask in the recomputed forward pass.
TEST_CASE("recomputation changes no bit", "[runs][equality]") {
  const Workplace place;
  const Steps none = steps_with(place, "none", {});
  for (const char* recompute : {"ffn", "block"}) {
    INFO(recompute);
    CHECK(steps_with(place, recompute, {.set = {cat("train.recompute=", recompute)}}) == none);
  }
}

// Kills: a mean over micro-batches where the sum over tokens is due; a sample that goes by the micro-batch.
TEST_CASE("another micro-batch changes rounding only", "[runs][equality]") {
  const Workplace place;
  const Steps one = steps_with(place, "1", {.set = {"model.dropout=0"}});
  for (const int micro_batch : {2, 8}) {
    const Steps other =
        steps_with(place, cat(micro_batch), {.set = {"model.dropout=0", cat("train.micro_batch=", micro_batch)}});
    for (const auto& [step, record] : one) {
      INFO("micro-batch " << micro_batch << ", step " << step);
      CHECK(other.at(step).loss == Approx(record.loss).epsilon(step == 1 ? 1e-6 : 1e-3));
    }
  }
}
