// Gradients of whole models, against complex steps of the same code in complex<double>.
#include "model/gradient_check.h"

using namespace sffn;
using namespace sffn::test;

namespace {

Batch batch_for(const std::string& name) {
  Batch batch = random_batch(3, 7, 29);
  if (name.find("documents") != std::string::npos) mask_documents(batch, {0, 3, 4});
  return batch;
}

}  // namespace

// Kills: any wrong or missing term of a backward pass (a branch's dropout not applied to its gradient, dX not added to
// dh, a bias without column sum, the tied matrix without the output's gradient, gate and keys swapped).
TEST_CASE("gradients of whole models equal complex steps", "[model]") {
  for (const auto& [name, config] : tiny_models()) {
    INFO(name);
    check_gradients(config, batch_for(name));
  }
}

// Kills: backward passes that ignore the document mask or the restarted positions.
TEST_CASE("gradients under document masks equal complex steps", "[model]") {
  for (Config config : {gpt_learned(), with_dropout(llama_grouped())}) {
    config.data.document_mask = true;
    check_gradients(config, batch_for("documents"));
  }
}

// Kills: gradients that overwrite instead of accumulate.
TEST_CASE("gradients of two passes add up", "[model]") {
  for (const auto& [name, config] : tiny_models()) {
    INFO(name);
    ModelRun run(config);
    const Batch batch = batch_for(name);
    run.forward_backward(batch);
    const std::vector<double> once = run.all_gradients();
    Context ctx = run.context();
    run.model().forward_backward(ctx, batch, 1.0);
    const std::vector<double> twice = run.all_gradients();
    std::vector<double> doubled = once;
    for (double& value : doubled) value *= 2;
    CHECK(relative_distance(twice, doubled) < 1e-13);
  }
}

// Kills: a softmax over padded columns, or a gradient written to padded rows.
TEST_CASE("padded rows of the vocabulary get no gradient", "[model]") {
  for (const Config& config : {gpt_learned(), untied_biased()}) {
    ModelRun run(config);
    run.forward_backward(random_batch(3, 7, 29));
    for (const Param& param : run.model().params().all()) {
      if (param.spec.padded_rows == 0) continue;
      INFO(param.spec.name);
      const Tensor padding = param.grad.slice(29, 3);
      for (const double value : read_values(run.stream(), padding)) CHECK(value == 0);
    }
  }
}
