// Blocks spread over ranks change no number: every method that has blocks, on every layout of ranks.
#include "comm/threads.h"
#include "support/late_communicator.h"
#include "train/expert_case.h"
#include "train/whole_weights.h"

#include <mutex>

using namespace sffn;
using namespace sffn::test;

namespace {

struct Outcome {
  std::vector<double> losses, norms, nll;
  std::vector<double> statistics;  // of all layers, one after another
  std::vector<std::string> loads;
  WholeWeights weights;
};

Outcome run(Config config, const Layout& layout, const std::vector<int64_t>& steps = {1, 2, 3}) {
  layout.apply(config);
  std::vector<Outcome> outcomes(static_cast<size_t>(layout.ranks));
  std::mutex guard;
  Outcome together;
  run_threads(layout.ranks, [&](Communicator& world) {
    RankGroups groups(world, layout.expert);
    Engine engine(config, parallel_of(world, groups), cpu_runtime(), arenas_of(config, world));
    engine.initialise();
    Outcome& mine = outcomes[static_cast<size_t>(world.rank())];
    for (const int64_t step : steps) {
      const StepNumbers numbers = run_step(engine, step);
      mine.losses.push_back(numbers.loss);
      mine.norms.push_back(numbers.gradient_norm);
      for (const Json::Member& layer : numbers.ffn.as_object()) {
        for (const Json::Member& figure : layer.value.as_object()) mine.statistics.push_back(figure.value.as_double());
      }
      mine.loads.push_back(numbers.block_load.dump());
    }
    for (const float nll : engine.evaluate(batch_of(config, 9, world.rank(), 1))) mine.nll.push_back(nll);
    const std::lock_guard<std::mutex> lock(guard);
    collect_weights(engine, together.weights);
  });
  for (const Outcome& outcome : outcomes) {
    CHECK(outcome.losses == outcomes[0].losses);
    CHECK(outcome.norms == outcomes[0].norms);
    CHECK(outcome.statistics == outcomes[0].statistics);
    CHECK(outcome.loads == outcomes[0].loads);
  }
  together.losses = outcomes[0].losses;
  together.norms = outcomes[0].norms;
  together.statistics = outcomes[0].statistics;
  together.loads = outcomes[0].loads;
  together.nll = outcomes[0].nll;
  return together;
}

void check_near(const std::vector<double>& found, const std::vector<double>& expected, double bound) {
  if (found == expected) return;  // nothing at all, too: statistics of a layer that counts nothing
  CHECK(relative_distance(found, expected) <= bound);
}

void check_same_run(const Outcome& found, const Outcome& one, double bound) {
  check_near(found.losses, one.losses, bound);
  check_near(found.norms, one.norms, bound);
  check_near(found.nll, one.nll, bound);
  check_near(found.statistics, one.statistics, bound);
  CHECK(found.loads == one.loads);
  REQUIRE(found.weights.size() == one.weights.size());
  for (const auto& [name, values] : one.weights) {
    INFO(name);
    check_near(found.weights.at(name), values, bound);
  }
}

template <class Check>
void for_every_spread_method(Check&& check) {
  const std::vector<FfnMethod> methods = spread_methods();
  for (const FfnMethod& method : methods) {
    INFO(method.name);
    check(method);
  }
  CHECK(methods.size() >= 15 + 6);
}

}  // namespace

// Kills: gradients of blocks summed over the wrong ranks, a norm that counts a block twice or not at all, a bias added
// once a rank, a choice by one rank's blocks alone, rows of a chunk in another order.
TEST_CASE("every method with blocks gives the same losses, norms, statistics and weights on every layout of ranks",
          "[expert]") {
  for_every_spread_method([](const FfnMethod& method) {
    const Config config = config_of(method, Precision::kFp64);
    const Outcome one = run(config, {1, 1});
    for (const Layout layout : {Layout{2, 2}, Layout{4, 2}, Layout{4, 2, 0}, Layout{4, 4}, Layout{8, 4},
                                Layout{2, 2, 1, kAllToAll}, Layout{4, 4, 0, kAllToAll}, Layout{8, 4, 1, kAllToAll}}) {
      if (blocks_of(config) % layout.expert != 0) continue;
      INFO(layout.ranks << " ranks, " << layout.expert << " share the blocks, zero " << layout.zero << ", "
                        << (layout.dispatch == kAllToAll ? "all_to_all" : "gather"));
      check_same_run(run(config, layout), one, 1e-9);
    }
  });
}

// The method's tiny model with blocks of so many cells, and as many blocks a token; of no blocks where it cannot be.
Config with_block_size(const FfnMethod& method, int64_t size) {
  Config config = config_of(method, Precision::kFp32);
  Json& entry = config.model.sparse_ffn.as_array()[0];
  if (entry.find("block_size") == nullptr) return config;
  const int64_t per_token = entry.find("active_cells")->as_int() / entry.find("block_size")->as_int();
  entry["block_size"] = size;
  entry["active_cells"] = per_token * size;
  return config;
}

// Kills: what is right for blocks of one size alone; sums over ranks in less than single precision.
TEST_CASE(
    "in single precision losses, norms, statistics and gradients of one step are the same on every layout of "
    "ranks, for blocks of three sizes",
    "[expert]") {
  for_every_spread_method([](const FfnMethod& method) {
    for (const int64_t size : {2, 4, 16}) {
      const Config config = with_block_size(method, size);
      INFO("blocks of " << size << ", " << blocks_of(config) << " of them");
      for (const int64_t step : {1, 3}) {
        const Outcome one = run(config, {1, 1}, {step});
        for (const Layout layout : {Layout{2, 2}, Layout{4, 2, 0, kAllToAll}, Layout{8, 4}}) {
          INFO("step " << step << ", " << layout.ranks << " ranks, " << layout.expert << " share the blocks");
          const Outcome found = run(config, layout, {step});
          check_near(found.losses, one.losses, 1e-5);
          check_near(found.norms, one.norms, 1e-5);
          check_near(found.statistics, one.statistics, 1e-5);
          CHECK(found.loads == one.loads);
          for (const auto& [name, values] : one.weights) {
            INFO(name);
            if (name.ends_with(moment_of(""))) check_near(found.weights.at(name), values, 1e-5);
          }
        }
      }
      if (config.model.sparse_ffn.as_array()[0].find("block_size") == nullptr) break;  // blocks of one cell
    }
  });
}

// Kills: gradients of scores that stay with the tokens' rank, or reach the keys of another rank's blocks.
TEST_CASE("extra losses on scores of spread blocks train the same weights on every layout of ranks", "[expert]") {
  for_every_spread_method([](const FfnMethod& method) {
    Config config = config_of(method, Precision::kFp64);
    Json& entry = config.model.sparse_ffn.as_array()[0];
    if (resolve_ffn(config.model, "test")[1].resolved.find("balance") == nullptr) return;
    for (const char* type : {"switch", "entropy", "bias"}) {
      INFO(type);
      entry["balance"] = Json::object();
      entry["balance"]["type"] = type;
      if (std::string(type) != "bias") entry["balance"]["weight"] = 0.3;
      const Outcome one = run(config, {1, 1});
      for (const Layout layout : {Layout{2, 2}, Layout{8, 4, 1, kAllToAll}}) {
        if (blocks_of(config) % layout.expert == 0) check_same_run(run(config, layout), one, 1e-9);
      }
    }
  });
}

// Kills: a gate table or a bias that is scored on one rank only.
TEST_CASE("scores after the activation, of gated cells too, are the same where cells are spread", "[expert]") {
  for (const char* entry :
       {R"({"type": "vanilla_m", "select_on": "postact", "activation": "gelu"})",
        R"({"type": "vanilla_m", "select_on": "postact", "activation": "swiglu", "bias": false})",
        R"({"type": "vanilla_m", "select_on": "preact", "activation": "swiglu", "bias": false})",
        R"({"type": "avg_k", "aggregator": "value_weighted", "activation": "swiglu", "bias": false})",
        R"({"type": "avg_k", "aggregator": "l2_mean", "activation": "gelu"})"}) {
    INFO(entry);
    Config config = config_of(*find_ffn_method("avg_k"), Precision::kFp64);
    Json json = parse_json(entry, "entry", ExitCode::kUsage);
    json["layers"] = Json::Array{int64_t{1}};
    json["cells"] = 32;
    json["block_size"] = 4;
    json["active_blocks"] = 2;
    json["balance"] = parse_json(R"({"type": "switch", "weight": 0.3})", "balance", ExitCode::kUsage);
    config.model.sparse_ffn = Json::Array{json};
    const Outcome one = run(config, {1, 1});
    for (const Layout layout : {Layout{2, 2}, Layout{8, 4}, Layout{8, 8}, Layout{8, 8, 1, kAllToAll}}) {
      check_same_run(run(config, layout), one, 1e-9);
    }
  }
}

// Kills: time that a device waits for tokens counted as computing, or counted twice, or not at all; that of evaluations
// counted for the next step.
TEST_CASE("what a rank waits for within a pass is exposed communication and no computing", "[expert]") {
  constexpr double kMilliseconds = 20;
  Config config = config_of(*find_ffn_method("rand_hash"), Precision::kFp32);
  Layout{2, 2}.apply(config);
  std::mutex guard;
  std::vector<StepNumbers> numbers;
  std::vector<double> waited;
  run_threads(2, [&](Communicator& world) {
    RankGroups groups(world, 2);
    LateCommunicator slow(groups.expert(), LateCommunicator::Copied::kInTheEnd, kMilliseconds);
    Parallel parallel = parallel_of(world, groups);
    parallel.expert = &slow;
    Engine engine(config, parallel, cpu_runtime(), arenas_of(config, world));
    engine.initialise();
    engine.evaluate(batch_of(config, 9, world.rank(), 1));
    const int64_t before = slow.begun();
    const StepNumbers step = run_step(engine, 1);
    const std::lock_guard<std::mutex> lock(guard);
    numbers.push_back(step);
    waited.push_back(kMilliseconds * static_cast<double>(slow.begun() - before));
  });
  for (size_t i = 0; i < numbers.size(); ++i) {
    CHECK(waited[i] > 0);
    CHECK(numbers[i].communication_ms >= waited[i]);
    CHECK(numbers[i].communication_ms < 1.5 * waited[i]);
    CHECK(numbers[i].forward_backward_ms < 0.5 * waited[i]);
    CHECK(numbers[i].forward_backward_ms > 0);
  }
}

// Kills: sums over ranks in an order that depends on which of them is ready.
TEST_CASE("a run with spread blocks gives the same bits again", "[expert]") {
  for_every_spread_method([](const FfnMethod& method) {
    const Config config = config_of(method, Precision::kFp32);
    for (const Dispatch dispatch : {Dispatch::kGather, kAllToAll}) {
      const Layout layout{4, 2, 1, dispatch};
      const Outcome first = run(config, layout), again = run(config, layout);
      CHECK(first.losses == again.losses);
      CHECK(first.norms == again.norms);
      CHECK(first.weights == again.weights);
    }
  });
}
