// What a run says before its first step.
#include "support/catch.h"

#include "training.h"

using namespace sffn;
using namespace sffn::test;

// Kills: lines of every rank; lines that were shown before the run's folder was known and are not in its log; the
// configuration's numbers where those of the started ranks are due; an unread zero.
TEST_CASE("a run begins with where it runs, on what, and how its ranks share the work", "[runs]") {
  const Workplace place;
  const std::vector<std::string> sparse = {
      "train.steps=1", "optimizer.schedule.warmup_steps=0",
      R"(model.sparse_ffn=[{"layers": {"every": 2}, "type": "avg_k", "block_size": 16, "expansion": 4}])"};
  const Ended alone = place.train({.run = "alone", .set = sparse});
  INFO(to_string(alone));
  CHECK(alone.says("1 rank on 1 node, 1 thread, "));
  CHECK(alone.says("; backend cpu: oneDNN "));
  CHECK(alone.says(", without MPI; 1 data rank, 1 expert rank, 1 replica, zero 1\n"));
  CHECK(alone.errors.empty());
  CHECK(read_text(place.path("alone") + "/log.txt") == alone.output);

  std::vector<std::string> spread = sparse;
  spread.insert(spread.end(), {"parallel.expert=2", "parallel.zero=0"});
  const Ended four = place.train({.run = "four", .ranks = 4, .set = spread});
  INFO(to_string(four));
  CHECK(four.says("4 ranks on 1 node, 1 thread each, "));
  CHECK(four.says("\nsffn "));
  CHECK(four.says("; 4 data ranks, 2 expert ranks, 2 replicas, zero 0\n"));
  CHECK(!four.says("without MPI"));
  CHECK(four.output.find("4 data ranks") == four.output.rfind("4 data ranks"));

  const Ended refused = place.train({.run = "refused", .ranks = 3, .set = spread});
  INFO(to_string(refused));
  CHECK(refused.code == 2);
  CHECK(refused.error_lines().size() == 1);
  CHECK(refused.says("parallel.expert: is 2, which does not divide the 3 ranks"));
}
