// What Engine::measure says a rank sends and multiplies is what it does.
#include "comm/threads.h"
#include "support/catch.h"
#include "support/counting_communicator.h"
#include "train/expert_case.h"
#include "train/spread_layers.h"

#include <mutex>

using namespace sffn;
using namespace sffn::test;

namespace {

bool same(const Traffic& a, const Traffic& b) {
  return a.all_gather == b.all_gather && a.uneven_all_gather == b.uneven_all_gather && a.all_to_all == b.all_to_all &&
         a.broadcast == b.broadcast;
}

// A step of every rank; how many of them sent what was measured, to each group of ranks.
int ranks_as_measured(const Config& config, const Layout& layout) {
  std::mutex guard;
  int as_measured = 0;
  run_threads(layout.ranks, [&](Communicator& world) {
    RankGroups groups(world, layout.expert);
    CountingCommunicator data(world), expert(groups.expert()), replicas(groups.replicas());
    const Measurement measured = Engine::measure(config, world.rank(), world.size());
    Engine engine(config, {.world = &world, .data = &data, .expert = &expert, .replicas = &replicas}, cpu_runtime(),
                  measured.arenas);
    engine.initialise([&] { return std::vector<double>(static_cast<size_t>(config.model.vocab_size), 1); });
    run_step(engine, 1);
    const std::lock_guard<std::mutex> lock(guard);
    as_measured += same(measured.traffic, data.traffic) && same(measured.expert_traffic, expert.traffic) &&
                   same(measured.replica_traffic, replicas.traffic);
  });
  return as_measured;
}

Config config_for(const std::string& method, const Layout& layout) {
  Config config = config_of(spread_method(method), Precision::kFp32);
  layout.apply(config);
  return config;
}

}  // namespace

// Kills: evaluation counted with the step; a micro-batch that is not; replicas' gradients counted with all ranks'; a
// message more or fewer.
TEST_CASE("a rank sends what measuring said, message by message", "[measure]") {
  const Layout layouts[] = {{1, 1}, {2, 1}, {4, 1}, {4, 1, 0}, {2, 2}, {4, 2}, {4, 2, 0}, {4, 4}};
  for (const Layout& layout : layouts) {
    for (const char* method : {"rand_hash", "avg_k", "vanilla_m", "switch", "finedeep", "finedeep, softmax",
                               "pkm, dense softmax", "pkm, dense relu"}) {
      INFO(method << " on " << layout.ranks << " ranks, expert " << layout.expert << ", zero " << layout.zero);
      CHECK(ranks_as_measured(config_for(method, layout), layout) == layout.ranks);
    }
  }
}

// Kills: a collective of a chunk forgotten; the list of choices; another number of chunks; block recomputation.
TEST_CASE("tokens of layers whose blocks are spread take the collectives that are planned for them", "[measure]") {
  for (const Dispatch dispatch : {Dispatch::kGather, kAllToAll}) {
    for (const Recompute recompute : {Recompute::kNone, Recompute::kFfn, Recompute::kBlock}) {
      for (const char* method : {"rand_hash", "switch", "pkm", "finedeep", "finedeep, input", "pkm, dense softmax"}) {
        const Layout layout{4, 2, 1, dispatch};
        Config config = config_for(method, layout);
        config.train.recompute = recompute;
        INFO(method << ", dispatch " << static_cast<int>(dispatch) << ", recompute " << static_cast<int>(recompute));
        const std::vector<SpreadLayer> layers = spread_layers(config, false);
        REQUIRE(layers.size() == 1);
        const int64_t tokens = config.train.micro_batch * config.model.context;
        const double micro_batches = static_cast<double>(kSequences) / layout.ranks;
        const Traffic planned = micro_batches * layers[0].counted(tokens, config.parallel.expert_chunk);
        CHECK(same(Engine::measure(config, 0, layout.ranks).expert_traffic, planned));
      }
    }
  }
}

// Kills: choices of all ranks counted on each; a micro-batch that is not multiplied.
TEST_CASE("spreading blocks takes a rank as many FLOPs as holding them all", "[measure]") {
  for (const char* method : {"rand_hash", "finedeep", "finedeep, softmax", "pkm, dense softmax"}) {
    INFO(method);
    Config config = config_for(method, {1, 1});
    config.train.recompute = Recompute::kFfn;  // spread blocks are always recomputed
    config.train.tokens_per_step = config.model.context;
    const double one = Engine::measure(config, 0, 1).flops;
    CHECK(one > 0);
    config.train.tokens_per_step = 3 * config.model.context;
    CHECK(Engine::measure(config, 0, 1).flops == Approx(3 * one).epsilon(1e-12));
    for (const int ranks : {2, 4}) {
      config.parallel.expert = ranks;
      config.train.tokens_per_step = ranks * config.model.context;
      for (const Dispatch dispatch : {Dispatch::kGather, kAllToAll}) {
        config.parallel.dispatch = dispatch;
        CHECK(Engine::measure(config, 0, ranks).flops == Approx(one).epsilon(1e-12));
      }
    }
  }
}

// Kills: a layout that does not divide the blocks, or the ranks; layers without blocks that are spread.
TEST_CASE("blocks are spread over powers of two that divide ranks and blocks", "[measure]") {
  Config config = config_for("avg_k", {1, 1});
  const int64_t blocks = blocks_of(config);
  std::vector<int64_t> divisors;
  for (int64_t spread = 1; spread <= 1024; spread *= 2) {
    if (blocks % spread == 0) divisors.push_back(spread);
  }
  REQUIRE(divisors.size() > 2);
  CHECK(expert_layouts(config, 1024) == divisors);
  CHECK(expert_layouts(config, 1) == std::vector<int64_t>{1});
  CHECK(expert_layouts(config, 2) == std::vector<int64_t>{1, 2});
  CHECK(expert_layouts(config, 3) == std::vector<int64_t>{1});
  CHECK(expert_layouts(config, 6) == std::vector<int64_t>{1, 2});
  CHECK(expert_layouts(config_for("finedeep", {1, 1}), 8) == std::vector<int64_t>{1, 2, 4});
  config.model.sparse_ffn = Json::array();
  CHECK(expert_layouts(config, 8) == std::vector<int64_t>{1});
}
