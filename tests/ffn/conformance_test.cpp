// What holds for every registered method, from its tiny configuration: a new method is tested here without a new test.
#include "comm/threads.h"
#include "ffn/method_model.h"
#include "model/flops.h"
#include "model/gradient_check.h"
#include "train/engine.h"

#include <algorithm>
#include <cmath>

using namespace sffn;
using namespace sffn::test;

namespace {

Config with_key(Config config, const std::string& key, const std::string& value) {
  config.model.sparse_ffn.as_array()[0][key] = value;
  return config;
}

template <class Check>
void for_every_method(Check&& check) {
  for (const FfnMethod* method : ffn_methods()) {
    INFO(method->name);
    check(*method);
  }
}

double total_of(const LossSum& loss) { return loss.nll / static_cast<double>(loss.tokens) + loss.extra_loss; }

struct Pass {
  double loss;
  std::vector<double> gradients;
};

Pass pass_of(const Config& config, const Batch& batch) {
  ModelRun run(config, batch.batch, batch.time);
  const double loss = total_of(run.forward_backward(batch, 0.125));
  return {loss, run.all_gradients()};
}

}  // namespace

// Kills: any wrong or missing term of a method's backward pass, an extra loss without its gradient, a choice that
// carries one.
TEST_CASE("every method's gradients equal complex steps of the whole model", "[ffn][conformance]") {
  for_every_method(
      [](const FfnMethod& method) { check_gradients(model_of(method, Precision::kFp64), random_batch(3, 7, 29)); });
}

// Kills: a form that forgets the weights, the biases, a dropped choice or a chunk of tokens.
TEST_CASE("masked and grouped block products agree for every method that has both", "[ffn][conformance]") {
  for_every_method([](const FfnMethod& method) {
    if (!has_key(method, "expert_compute")) return;
    const Batch batch = random_batch(3, 7, 29);
    for (const auto& [precision, bound] :
         {std::pair{Precision::kFp64, 1e-13}, {Precision::kFp32, 1e-5}, {Precision::kBf16, 6e-2}}) {
      const Config config = model_of(method, precision);
      const Pass masked = pass_of(with_key(config, "expert_compute", "masked"), batch);
      const Pass grouped = pass_of(with_key(config, "expert_compute", "grouped"), batch);
      CHECK(grouped.loss == Approx(masked.loss).epsilon(bound));
      CHECK(relative_distance(grouped.gradients, masked.gradients) < bound);
    }
  });
}

// Kills: choices or noise drawn anew in the pass that is made again, extra losses and counts recorded twice.
TEST_CASE("recomputation changes no bit of any method", "[ffn][conformance]") {
  for_every_method([](const FfnMethod& method) {
    for (const Precision precision : {Precision::kFp32, Precision::kBf16}) {
      Config config = model_of(method, precision);
      config.model.dropout = 0.1;
      const Batch batch = random_batch(3, 7, 29);
      const Pass kept = pass_of(config, batch);
      for (const Recompute recompute : {Recompute::kFfn, Recompute::kBlock}) {
        config.train.recompute = recompute;
        const Pass again = pass_of(config, batch);
        CHECK(again.loss == kept.loss);
        CHECK(again.gradients == kept.gradients);
      }
    }
  });
}

// Kills: parameters that cost() forgets or counts twice.
TEST_CASE("every method's cost counts the parameters that it registers", "[ffn][conformance]") {
  for_every_method([](const FfnMethod& method) {
    const Config config = model_of(method, Precision::kFp32);
    const Transformer model(config);
    const ParameterCount count = count_parameters(config.model);
    CHECK(count.total == model.params().parameter_count());
    CHECK(count.active <= count.total);
    CHECK(count_flops(config.model).forward_per_token > 0);
  });
}

// Kills: a key that is read and not resolved, so that a checkpoint's configuration is another model's.
TEST_CASE("the resolved entry of every method reads back to itself and to the same layer", "[ffn][conformance]") {
  for_every_method([](const FfnMethod& method) {
    Config config = model_of(method, Precision::kFp32);
    config.train.tokens_per_step = config.model.context;
    if (method.name == "dense") config = with_key(config, "activation", "silu");
    const Json resolved = resolved_json(config);
    const Config again = parse_config(resolved, "resolved");
    CHECK(resolved_json(again) == resolved);
    CHECK(count_parameters(again.model).by_layer == count_parameters(config.model).by_layer);
    CHECK(count_flops(again.model).forward_per_token == count_flops(config.model).forward_per_token);
    // Nothing may come from model.ffn any more.
    Config other = again;
    other.model.ffn.d_ff = 48;
    other.model.ffn.bias = false;
    CHECK(count_parameters(other.model).by_layer[1] == count_parameters(config.model).by_layer[1]);
  });
}

// Kills: sizes that are assumed to be large, or even; scratch that one token does not fill.
TEST_CASE("every method serves one token, and many that are all the same", "[ffn][conformance]") {
  for_every_method([](const FfnMethod& method) {
    for (const Precision precision : {Precision::kFp32, Precision::kBf16, Precision::kFp64}) {
      const Config config = model_of(method, precision);
      Batch one = random_batch(1, 1, 29);
      CHECK(std::isfinite(pass_of(config, one).loss));
      Batch same = random_batch(4, 9, 29);
      std::fill(same.inputs.begin(), same.inputs.end(), 7);
      const Pass pass = pass_of(config, same);
      CHECK(std::isfinite(pass.loss));
      CHECK(std::all_of(pass.gradients.begin(), pass.gradients.end(), [](double g) { return std::isfinite(g); }));
    }
  });
}

// Kills: a NaN that is sorted away, so that a broken model looks sound; an index from a comparison that NaN breaks.
TEST_CASE("a NaN in the input of any method reaches the loss and breaks nothing", "[ffn][conformance]") {
  for_every_method([](const FfnMethod& method) {
    const Batch batch = random_batch(3, 7, 29);
    ModelRun run(model_of(method, Precision::kFp32));
    run.model().params().find("layers.1.ffn_norm.weight") != nullptr
        ? void(run.model().params().find("layers.1.ffn_norm.weight")->value.data<float>()[5] = NAN)
        : void(run.model().params().find("layers.1.ffn.sub.0.norm.weight")->value.data<float>()[5] = NAN);
    CHECK(std::isnan(total_of(run.forward_backward(batch))));
  });
}

// Kills: evaluation that draws noise or drops, and probes that show other choices than the pass made.
TEST_CASE("evaluation of any method repeats itself and equals a pass in evaluation mode", "[ffn][conformance]") {
  for_every_method([](const FfnMethod& method) {
    const Batch batch = random_batch(3, 7, 29);
    ModelRun run(model_of(method, Precision::kFp32));
    Inspection first, second;
    run.evaluate(batch, nullptr, &first);
    Context ctx = run.context();
    ctx.training = false;
    ctx.step = 99;
    const LossSum loss = run.model().forward_backward(ctx, batch, 1.0, &second);
    CHECK(loss.nll == Approx(run.evaluate(batch).nll).epsilon(1e-12));
    REQUIRE(first.choices.size() == second.choices.size());
    for (size_t i = 0; i < first.choices.size(); ++i) {
      CHECK(first.choices[i].blocks == second.choices[i].blocks);
      CHECK(first.choices[i].weights == second.choices[i].weights);
    }
  });
}

namespace {

struct Outcome {
  std::vector<double> losses, norms;
  std::string hash;
  bool operator==(const Outcome&) const = default;
};

Outcome train(const Config& config, Communicator& data) {
  const auto alone = make_self_communicator();
  Engine engine(config, {&data, &data, alone.get()}, cpu_runtime(),
                Engine::measure(config, data.rank(), data.size()).arenas);
  engine.initialise();
  Outcome outcome;
  for (int64_t step = 1; step <= 2; ++step) {
    const auto batch_of = [&](int64_t first, int64_t count) {
      Batch all = random_batch(8, config.model.context, config.model.vocab_size, static_cast<uint64_t>(step));
      Batch part = make_batch(count, all.time);
      std::copy_n(all.inputs.begin() + first * all.time, count * all.time, part.inputs.begin());
      std::copy_n(all.targets.begin() + first * all.time, count * all.time, part.targets.begin());
      return part;
    };
    const StepNumbers numbers = engine.step(step, batch_of, 1e-2, [](std::string_view) {});
    outcome.losses.push_back(numbers.loss);
    outcome.norms.push_back(numbers.gradient_norm);
  }
  outcome.hash = engine.state_hash();
  return outcome;
}

}  // namespace

// Kills: statistics, noise or biases that depend on which rank holds a micro-batch, and arenas that the plan makes too
// small for a step that counts.
TEST_CASE("1, 2 and 4 data-parallel ranks train every method alike, bit for bit", "[ffn][conformance]") {
  for_every_method([](const FfnMethod& method) {
    Config config = model_of(method, Precision::kFp32);
    config.train.micro_batch = 2;
    config.train.tokens_per_step = 8 * config.model.context;
    const auto alone = make_self_communicator();
    const Outcome one = train(config, *alone);
    for (const int ranks : {2, 4}) {
      INFO(ranks << " ranks");
      run_threads(ranks, [&](Communicator& comm) {
        const Outcome outcome = train(config, comm);
        if (comm.rank() == 0) CHECK(outcome == one);
      });
    }
  });
}
