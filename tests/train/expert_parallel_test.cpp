// Blocks spread over ranks change no number: every method that has blocks, on every layout of ranks.
#include "comm/threads.h"
#include "train/expert_case.h"
#include "train/whole_weights.h"

#include <mutex>

using namespace sffn;
using namespace sffn::test;

namespace {

struct Outcome {
  std::vector<double> losses, norms, nll;
  std::vector<std::string> statistics;
  WholeWeights weights;
};

Outcome run(Config config, const Layout& layout) {
  layout.apply(config);
  std::vector<Outcome> outcomes(static_cast<size_t>(layout.ranks));
  std::mutex guard;
  Outcome together;
  run_threads(layout.ranks, [&](Communicator& world) {
    RankGroups groups(world, layout.expert);
    Engine engine(config, parallel_of(world, groups), cpu_runtime(), arenas_of(config, world));
    engine.initialise();
    Outcome& mine = outcomes[static_cast<size_t>(world.rank())];
    for (int64_t step = 1; step <= 3; ++step) {
      const StepNumbers numbers = run_step(engine, step);
      mine.losses.push_back(numbers.loss);
      mine.norms.push_back(numbers.gradient_norm);
      mine.statistics.push_back(numbers.block_load.dump());
    }
    for (const float nll : engine.evaluate(batch_of(config, 9, world.rank(), 1))) mine.nll.push_back(nll);
    const std::lock_guard<std::mutex> lock(guard);
    collect_weights(engine, together.weights);
  });
  for (const Outcome& outcome : outcomes) {
    CHECK(outcome.losses == outcomes[0].losses);
    CHECK(outcome.norms == outcomes[0].norms);
    CHECK(outcome.statistics == outcomes[0].statistics);
  }
  together.losses = outcomes[0].losses;
  together.norms = outcomes[0].norms;
  together.statistics = outcomes[0].statistics;
  together.nll = outcomes[0].nll;
  return together;
}

void check_near(const std::vector<double>& found, const std::vector<double>& expected, double bound) {
  CHECK(relative_distance(found, expected) <= bound);
}

void check_same_run(const Outcome& found, const Outcome& one, double bound) {
  check_near(found.losses, one.losses, bound);
  check_near(found.norms, one.norms, bound);
  check_near(found.nll, one.nll, bound);
  CHECK(found.statistics == one.statistics);
  REQUIRE(found.weights.size() == one.weights.size());
  for (const auto& [name, values] : one.weights) {
    INFO(name);
    check_near(found.weights.at(name), values, bound);
  }
}

template <class Check>
void for_every_spread_method(Check&& check) {
  int methods = 0;
  for (const FfnMethod* method : ffn_methods()) {
    if (blocks_of(config_of(*method, Precision::kFp32)) == 0) continue;
    ++methods;
    INFO(method->name);
    check(*method);
  }
  CHECK(methods >= 14);
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
