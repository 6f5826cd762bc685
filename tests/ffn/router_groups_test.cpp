// Extra losses, capacity and balanced choices over their group of tokens, whatever ranks and micro-batches share a
// step.
#include "comm/threads.h"
#include "model/model_run.h"
#include "support/error_of.h"
#include "train/engine.h"

using namespace sffn;
using namespace sffn::test;

namespace {

constexpr int64_t kContext = 8, kSequences = 4;

Config with_router(const std::string& entry, int64_t micro_batch) {
  Config config = tiny_model(Precision::kFp64);
  config.model.d_model = 8;
  config.model.head_dim = 4;
  config.model.context = kContext;
  config.model.ffn.d_ff = 16;
  Json json = parse_json(entry, "entry", ExitCode::kUsage);
  json["layers"] = Json::Array{int64_t{1}};
  json["cells"] = 32;
  json["block_size"] = 4;
  config.model.sparse_ffn = Json::Array{json};
  config.train.micro_batch = micro_batch;
  config.train.tokens_per_step = kSequences * kContext;
  return config;
}

struct Outcome {
  std::vector<double> losses, norms, extra, dropped;
  std::vector<double> weights;  // of the router, after the steps
  std::string hash;
};

Outcome run(const Config& config, Communicator& data) {
  const auto alone = make_self_communicator();
  Engine engine(config, {&data, &data, alone.get()}, cpu_runtime(),
                Engine::measure(config, data.rank(), data.size()).arenas);
  engine.initialise();
  Outcome outcome;
  for (int64_t step = 1; step <= 3; ++step) {
    const auto batch_of = [&](int64_t first, int64_t count) {
      const Batch all = random_batch(kSequences, kContext, config.model.vocab_size, static_cast<uint64_t>(step));
      Batch part = make_batch(count, kContext);
      std::copy_n(all.inputs.begin() + first * kContext, count * kContext, part.inputs.begin());
      std::copy_n(all.targets.begin() + first * kContext, count * kContext, part.targets.begin());
      return part;
    };
    const StepNumbers numbers = engine.step(step, batch_of, 1e-2, [](std::string_view) {});
    outcome.losses.push_back(numbers.loss);
    outcome.norms.push_back(numbers.gradient_norm);
    outcome.extra.push_back(numbers.ffn.find("1")->find("balance_loss")->as_double());
    outcome.dropped.push_back(numbers.ffn.find("1")->find("dropped")->as_double());
  }
  outcome.weights = read_values(engine.stream(), engine.model().params().find("layers.1.ffn.router.weight")->value);
  outcome.hash = engine.state_hash();
  return outcome;
}

Outcome run_on(int ranks, const std::string& entry, int64_t micro_batch) {
  std::vector<Outcome> outcomes(static_cast<size_t>(ranks));
  run_threads(ranks, [&](Communicator& comm) {
    outcomes[static_cast<size_t>(comm.rank())] = run(with_router(entry, micro_batch), comm);
  });
  return outcomes[0];
}

std::string with_group(const std::string& keys, const std::string& type, const std::string& group) {
  return cat("{", keys, R"(, "balance": {"type": ")", type, R"(", "group": ")", group, "\"",
             type == "none" ? "" : R"(, "weight": 0.3)", "}}");
}

struct Method {
  std::string keys, type;
};
const Method kMethods[] = {
    {R"("type": "switch", "active_blocks": 2, "capacity_factor": 0.8, "jitter": 0.1, "z_loss": 0.1)", "switch"},
    {R"("type": "sigma_moe", "active_blocks": 2, "expert_dropout": 0.2)", "entropy"},
    {R"("type": "s_base", "active_blocks": 2)", "entropy"},
    {R"("type": "noisy_top_k", "active_blocks": 2)", "cv2"},
    {R"("type": "base", "active_blocks": 1)", "none"}};

}  // namespace

// Kills: statistics over a rank's tokens, a mean over ranks instead of micro-batches.
TEST_CASE("4 micro-batches give the same bits on 1, 2 and 4 ranks", "[ffn][router][groups]") {
  for (const Method& method : kMethods) {
    for (const std::string group : {"micro_batch", "sequence"}) {
      const std::string entry = with_group(method.keys, method.type, group);
      INFO(entry);
      const Outcome one = run_on(1, entry, 1);
      CHECK((one.extra[0] != 0) == (method.type != "none"));
      for (const int ranks : {2, 4}) {
        const Outcome other = run_on(ranks, entry, 1);
        CHECK(other.hash == one.hash);
        CHECK(other.losses == one.losses);
        CHECK(other.norms == one.norms);
        CHECK(other.extra == one.extra);
        CHECK(other.dropped == one.dropped);
      }
    }
  }
}

// Kills: a loss or a capacity of each rank's own tokens, a gradient that ranks divide, a rank that takes another's
// rows.
TEST_CASE("the group of a step is the same tokens for 1, 2 and 4 ranks", "[ffn][router][groups]") {
  for (const Method& method : kMethods) {
    const std::string entry = with_group(method.keys, method.type, "step");
    INFO(entry);
    const Outcome one = run_on(1, entry, 4);
    CHECK((one.dropped[0] > 0) == (method.type == "switch"));
    for (const int ranks : {2, 4}) {
      const Outcome other = run_on(ranks, entry, 4 / ranks);
      for (size_t i = 0; i < one.losses.size(); ++i) {
        CHECK(other.losses[i] == Approx(one.losses[i]).epsilon(1e-11));
        CHECK(other.norms[i] == Approx(one.norms[i]).epsilon(1e-10));
        CHECK(other.extra[i] == Approx(one.extra[i]).epsilon(1e-11));
        CHECK(other.dropped[i] == one.dropped[i]);
      }
      CHECK(relative_distance(other.weights, one.weights) < 1e-7);
    }
    CHECK(one.losses != run_on(1, with_group(method.keys, method.type, "sequence"), 4).losses);
  }
}

// Kills: accumulation that is let through for losses, or only looked at for losses.
TEST_CASE("the group of a step and accumulated gradients are a usage error", "[ffn][router][groups]") {
  for (const Method& method : kMethods) {
    const Config config = with_router(with_group(method.keys, method.type, "step"), 2);
    const Caught caught = error_of([&] { Engine::measure(config, 0, 1); });
    INFO(method.keys);
    CHECK(caught.code == ExitCode::kUsage);
    CHECK(caught.says("balance.group"));
    CHECK(error_of([&] { Engine::measure(config, 0, 2); }).what.empty());
  }
}
