// Updates do not depend on how many ranks or threads share the work.
#include "support/catch.h"

#include <cmath>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "comm/threads.h"
#include "core/random.h"
#include "train/engine.h"

using namespace sffn;

namespace {

Config tiny(Precision precision = Precision::kFp32) {
  Config config;
  config.model.vocab_size = 61;
  config.model.context = 16;
  config.model.layers = 2;
  config.model.d_model = 32;
  config.model.heads = config.model.kv_heads = 2;
  config.model.head_dim = 16;
  config.model.ffn.d_ff = 64;
  config.model.dropout = 0.1;
  config.train.steps = 4;
  config.train.micro_batch = 2;
  config.train.tokens_per_step = 16 * 16;  // 8 micro-batches
  config.train.precision = precision;
  config.optimizer.clip = 0.5;
  return config;
}

// Distinct tokens per sequence, a function of (step, sequence) as the data layer's are.
Batch batch_of(const Config& config, int64_t step, int64_t first, int64_t count) {
  Batch batch = make_batch(count, config.model.context);
  for (int64_t i = 0; i < count * config.model.context; ++i) {
    const RandomKey key = random_key(7, RandomSite::kRandomTokens, 0, step);
    const uint64_t at = static_cast<uint64_t>(first * config.model.context + i);
    batch.inputs[i] = static_cast<int32_t>(random_bits(key, 2 * at) % 61);
    batch.targets[i] = static_cast<int32_t>(random_bits(key, 2 * at + 1) % 61);
  }
  return batch;
}

struct Outcome {
  std::vector<double> losses, norms;
  std::string hash;
  bool operator==(const Outcome&) const = default;
};

Outcome run(const Config& config, Communicator& data, int64_t steps = 3) {
  const auto alone = make_self_communicator();
  Engine engine(config, {&data, &data, alone.get()}, cpu_runtime(),
                Engine::measure(config, data.rank(), data.size()).arenas);
  engine.initialise();
  Outcome outcome;
  for (int64_t step = 1; step <= steps; ++step) {
    const StepNumbers numbers = engine.step(
        step, [&](int64_t first, int64_t count) { return batch_of(config, step, first, count); }, 1e-2,
        [](std::string_view) {});
    outcome.losses.push_back(numbers.loss);
    outcome.norms.push_back(numbers.gradient_norm);
  }
  outcome.hash = engine.state_hash();
  return outcome;
}

Outcome run_on(int ranks, const Config& config) {
  std::vector<Outcome> outcomes(ranks);
  run_threads(ranks, [&](Communicator& comm) { outcomes[comm.rank()] = run(config, comm); });
  for (const Outcome& outcome : outcomes) CHECK(outcome == outcomes[0]);
  return outcomes[0];
}

}  // namespace

// Kills: summing micro-batches one after another, or a norm taken over a rank's own range only.
TEST_CASE("any number of data-parallel ranks gives the same losses, norms and weights, bit for bit", "[engine]") {
  for (Precision precision : {Precision::kFp32, Precision::kBf16}) {
    const Config config = tiny(precision);
    const Outcome one = run_on(1, config);
    CHECK(one.losses[2] < one.losses[0]);
    for (int ranks : {2, 3, 4, 8}) {
      INFO(ranks << " ranks");
      CHECK(run_on(ranks, config) == one);
    }
  }
}

// Kills: a replicated optimizer that updates only the rank's own range, or shares that differ from it.
TEST_CASE("ZeRO changes who keeps the optimizer state and no number", "[engine]") {
  Config config = tiny();
  const Outcome sharded = run_on(2, config);
  config.parallel.zero = 0;
  CHECK(run_on(2, config) == sharded);
}

#ifdef _OPENMP
// Kills: cutting work by thread.
TEST_CASE("any number of threads gives the same losses, norms and weights, bit for bit", "[engine]") {
  const int before = omp_get_max_threads();
  const Config config = tiny();
  omp_set_num_threads(1);
  const auto alone = make_self_communicator();
  const Outcome one = run(config, *alone);
  for (int threads : {2, 4}) {
    omp_set_num_threads(threads);
    CHECK(run(config, *alone) == one);
  }
  omp_set_num_threads(before);
}
#endif

// Kills: a loss scale that counts one rank's tokens, or a micro-batch's, instead of the step's.
TEST_CASE("another micro-batch changes rounding only", "[engine]") {
  Config config = tiny();
  const Outcome two = run_on(1, config);
  for (int64_t micro_batch : {1, 4, 16}) {
    config.train.micro_batch = micro_batch;
    const Outcome other = run_on(1, config);
    for (size_t i = 0; i < other.losses.size(); ++i) {
      CHECK(other.losses[i] == Approx(two.losses[i]).epsilon(1e-5));
      CHECK(other.norms[i] == Approx(two.norms[i]).epsilon(1e-4));
    }
  }
}

// Kills: updating before looking.
TEST_CASE("a step whose loss is not finite changes no weight", "[engine]") {
  const Config config = tiny();
  const auto alone = make_self_communicator();
  Engine engine(config, {alone.get(), alone.get(), alone.get()}, cpu_runtime(), Engine::measure(config, 0, 1).arenas);
  engine.initialise();
  engine.model().params().find("final_norm.weight")->value.data<float>()[3] = NAN;
  const std::string before = engine.state_hash();
  const StepNumbers numbers = engine.step(
      1, [&](int64_t first, int64_t count) { return batch_of(config, 1, first, count); }, 1e-2,
      [](std::string_view) {});
  CHECK(!numbers.finite);
  CHECK(engine.state_hash() == before);
}

// Kills: a rank that would wait for leaves it does not have.
TEST_CASE("more ranks than micro-batches is a usage error", "[engine]") {
  const Config config = tiny();
  CHECK_THROWS_AS(Engine::measure(config, 8, 9), UsageError);
}
