// What must not matter: recomputation, chunks of the loss head, how documents and micro-batches are packed.
#include "model/model_run.h"

#include <numeric>

using namespace sffn;
using namespace sffn::test;

namespace {

Config with_recompute(Config config, Recompute recompute) {
  config.train.recompute = recompute;
  return config;
}

Batch sequences_of(const Batch& whole, int64_t first_token, int64_t time) {
  Batch part{.batch = 1, .time = time, .inputs = {}, .targets = {}, .positions = {}, .segment_start = {}};
  for (int64_t t = 0; t < time; ++t) {
    part.inputs.push_back(whole.inputs[static_cast<size_t>(first_token + t)]);
    part.targets.push_back(whole.targets[static_cast<size_t>(first_token + t)]);
    part.positions.push_back(static_cast<int32_t>(t));
  }
  return part;
}

}  // namespace

// Kills: a recomputed forward pass that draws other dropout masks, starts from a sum before its rounding, or reads
// memory that was given back.
TEST_CASE("recomputation changes no bit and keeps less", "[model]") {
  for (const Precision precision : {Precision::kFp32, Precision::kBf16}) {
    for (const auto& [name, config] : tiny_models()) {
      INFO(name << (precision == Precision::kBf16 ? " bf16" : " fp32"));
      Config deep = in_precision(config, precision);
      deep.model.layers = 4;
      const Batch batch = random_batch(3, 7, 29);
      ModelRun keep(deep), ffn(with_recompute(deep, Recompute::kFfn)), block(with_recompute(deep, Recompute::kBlock));
      const double nll = keep.forward_backward(batch).nll;
      CHECK(ffn.forward_backward(batch).nll == nll);
      CHECK(block.forward_backward(batch).nll == nll);
      CHECK(ffn.gradient_bytes() == keep.gradient_bytes());
      CHECK(block.gradient_bytes() == keep.gradient_bytes());
      CHECK(ffn.plan().train.saved < keep.plan().train.saved);
      CHECK(block.plan().train.saved < ffn.plan().train.saved);
    }
  }
}

// Kills: a last chunk that is dropped or too long, chunks that overwrite each other's gradients.
TEST_CASE("chunks of the loss head change rounding only", "[model]") {
  for (const Config& config : {gpt_learned(), untied_biased()}) {
    const Batch batch = random_batch(3, 7, 29);
    ModelRun whole(config);
    const double nll = whole.forward_backward(batch).nll;
    std::vector<float> whole_nll;
    whole.evaluate(batch, &whole_nll);
    for (const int64_t tokens : {1, 4, 20, 21, 22}) {
      INFO(tokens << " tokens a chunk");
      ModelRun chunked(config, 3, 7, tokens * 32 * 8);
      CHECK(chunked.forward_backward(batch).nll == Approx(nll).epsilon(1e-14));
      CHECK(relative_distance(chunked.all_gradients(), whole.all_gradients()) < 1e-14);
      std::vector<float> chunked_nll;
      chunked.evaluate(batch, &chunked_nll);
      CHECK(chunked_nll == whole_nll);
    }
  }
}

// Kills: attention across documents, positions that run on, segment starts counted over the batch.
TEST_CASE("masked documents are what they are alone", "[model]") {
  for (Config config : {gpt_learned(), gpt_sinusoidal(), llama_grouped()}) {
    config.data.document_mask = true;
    const Batch plain = random_batch(2, 7, 29);
    Batch masked = plain;
    mask_documents(masked, {0, 3});
    ModelRun together(config, 2, 7), alone(config, 2, 7);
    const double nll = together.forward_backward(masked).nll;
    double sum = 0;
    alone.clear_gradients();
    for (const auto& [first, time] : {std::pair{0, 3}, {3, 4}, {7, 3}, {10, 4}}) {
      Context ctx = alone.context();
      sum += alone.model().forward_backward(ctx, sequences_of(plain, first, time), 1.0).nll;
    }
    CHECK(nll == Approx(sum).epsilon(1e-13));
    CHECK(relative_distance(together.all_gradients(), alone.all_gradients()) < 1e-13);
  }
}

// Kills: dropout counters that begin anew in every micro-batch.
TEST_CASE("micro-batches of one step draw the masks of the whole step", "[model]") {
  for (const Config& config : {with_dropout(gpt_learned()), with_dropout(llama_grouped())}) {
    const Batch whole = random_batch(3, 7, 29);
    ModelRun together(config), apart(config);
    const double nll = together.forward_backward(whole).nll;
    double sum = 0;
    apart.clear_gradients();
    for (const int64_t sequence : {0, 1, 2}) {
      Context ctx = apart.context();
      ctx.first_sequence = sequence;
      sum += apart.model().forward_backward(ctx, sequences_of(whole, sequence * 7, 7), 1.0).nll;
    }
    CHECK(sum == Approx(nll).epsilon(1e-13));
    CHECK(relative_distance(apart.all_gradients(), together.all_gradients()) < 1e-13);
  }
}

// Kills: one mask for all steps or all layers, or dropout that is left out at a site.
TEST_CASE("dropout depends on the step and is off outside training", "[model]") {
  const Batch batch = random_batch(3, 7, 29);
  ModelRun run(with_dropout(gpt_learned())), plain(gpt_learned());
  const double first = run.forward_backward(batch).nll;
  Context ctx = run.context();
  ctx.step = 12;
  CHECK(run.model().forward_backward(ctx, batch, 1.0).nll != first);
  ctx.training = false;
  CHECK(run.model().forward_backward(ctx, batch, 1.0).nll == plain.forward_backward(batch).nll);
  CHECK(run.evaluate(batch).nll == plain.evaluate(batch).nll);
}

// Kills: an evaluation that differs from training (other code, other order), counts of unscored targets.
TEST_CASE("evaluation gives the loss of training without dropout", "[model]") {
  for (const Precision precision : {Precision::kFp32, Precision::kBf16, Precision::kFp64}) {
    for (const Config& base : {gpt_learned(), llama_grouped()}) {
      ModelRun run(in_precision(base, precision));
      const Batch batch = random_batch(3, 7, 29);
      const LossSum trained = run.forward_backward(batch);
      std::vector<float> token_nll;
      const LossSum evaluated = run.evaluate(batch, &token_nll);
      CHECK(evaluated.nll == trained.nll);
      CHECK(evaluated.tokens == trained.tokens);
      CHECK(evaluated.tokens == 21 - 4);
      REQUIRE(token_nll.size() == 21);
      for (size_t n = 0; n < token_nll.size(); ++n) CHECK((token_nll[n] == 0) == (batch.targets[n] == -1));
      CHECK(std::accumulate(token_nll.begin(), token_nll.end(), 0.0) == Approx(trained.nll).epsilon(1e-6));
    }
  }
}

// Kills: an allocation that the plan does not make, or one that it makes and the run does not.
TEST_CASE("arenas of exactly the planned size serve every pass and are used to the last byte", "[model]") {
  for (const Recompute recompute : {Recompute::kNone, Recompute::kFfn, Recompute::kBlock}) {
    for (const auto& [name, base] : tiny_models()) {
      INFO(name);
      const Config config = in_precision(with_recompute(base, recompute), Precision::kBf16);
      ModelRun run(config);
      const Batch batch = random_batch(3, 7, 29);
      run.forward_backward(batch);
      CHECK(run.saved().high_water() == run.plan().train.saved);
      CHECK(run.scratch().high_water() == run.plan().train.scratch);
      CHECK(run.saved().used() == 0);
      CHECK(run.scratch().used() == 0);

      Arena saved(cpu_runtime(), "saved", run.plan().evaluate.saved);
      Arena scratch(cpu_runtime(), "scratch", run.plan().evaluate.scratch);
      Context ctx{.stream = run.stream(), .saved = saved, .scratch = scratch, .parallel = {}};
      run.model().evaluate(ctx, batch);
      CHECK(saved.high_water() == run.plan().evaluate.saved);
      CHECK(scratch.high_water() == run.plan().evaluate.scratch);
    }
  }
}

// Kills: recomputed work that is not counted, or a forward pass counted twice.
TEST_CASE("the work of a pass is counted on the meta device", "[model]") {
  const Config config = llama_grouped();
  const double tokens = 21, layers = 2;
  const double projections = layers * tokens * 2 * 12 * (48 + 24), ffn = layers * tokens * 6 * 12 * 20;
  const double output = tokens * 2 * 12 * 32;
  const auto matmul = [&](Recompute recompute) {
    return measure_memory(with_recompute(config, recompute), 3, 7).train.work.matmul_flops;
  };
  const double forward = projections + ffn + output;
  CHECK(measure_memory(config, 3, 7).evaluate.work.matmul_flops == forward);
  CHECK(matmul(Recompute::kNone) == 3 * forward);
  CHECK(matmul(Recompute::kFfn) == 3 * forward + ffn * 2 / 3);
  CHECK(matmul(Recompute::kBlock) == 3 * forward + projections + ffn);
}

// Kills: ids that index outside the tables.
TEST_CASE("a batch that does not fit the model is refused", "[model]") {
  ModelRun run(gpt_learned());
  const auto refused = [&](auto&& spoil) {
    Batch batch = random_batch(3, 7, 29);
    spoil(batch);
    CHECK_THROWS_AS(run.forward_backward(batch), RunError);
  };
  refused([](Batch& batch) { batch.inputs[4] = 29; });
  refused([](Batch& batch) { batch.inputs[4] = -1; });
  refused([](Batch& batch) { batch.targets[4] = -2; });
  refused([](Batch& batch) { batch.positions[4] = 10; });
  refused([](Batch& batch) { batch.targets.pop_back(); });
  refused([](Batch& batch) { batch.batch = 0; });
}
