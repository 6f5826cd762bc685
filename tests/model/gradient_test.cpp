// Gradients of whole models, against complex steps of the same code in complex<double>.
#include "model/model_run.h"
#include "support/complex_step.h"

using namespace sffn;
using namespace sffn::test;

namespace {

Batch batch_for(const std::string& name) {
  Batch batch = random_batch(3, 7, 29);
  if (name.find("documents") != std::string::npos) mask_documents(batch, {0, 3, 4});
  return batch;
}

// d(loss)/dε at parameters p + ε·direction, where each direction is given by `step_of(param, element)`.
template <class StepOf>
double derivative(ModelRun& run, const Batch& batch, double scale, StepOf&& step_of) {
  for (Param& param : run.model().params().all()) {
    Complex* value = param.value.data<Complex>();
    const int64_t count = param.spec.shape.numel();
    for (int64_t i = 0; i < count; ++i) value[i] = Complex(value[i].real(), kComplexStep * step_of(param, i));
  }
  Inspection inspection;
  run.forward_backward(batch, scale, &inspection);
  return scale * inspection.nll.imag() / kComplexStep;
}

double direction_of(const Param& param, int64_t i) {
  return random_normal(random_key(23, param.spec.name), static_cast<uint64_t>(i));
}

void check_gradients(const Config& config, const Batch& batch) {
  const double scale = 0.125;
  ModelRun real(in_precision(config, Precision::kFp64)), complex(in_precision(config, Precision::kComplex));
  real.forward_backward(batch, scale);
  double expected = 0;
  for (const Param& param : real.model().params().all()) {
    const std::vector<double> gradient = real.gradient(param);
    for (size_t i = 0; i < gradient.size(); ++i) {
      expected += gradient[i] * direction_of(param, static_cast<int64_t>(i));
    }
  }
  const double along = derivative(complex, batch, scale, direction_of);
  CHECK(along == Approx(expected).epsilon(1e-10));

  for (const Param& param : real.model().params().all()) {
    const std::vector<double> gradient = real.gradient(param);
    for (const int64_t at : {int64_t{0}, param.spec.shape.numel() * 2 / 3}) {
      const double single = derivative(complex, batch, scale, [&](const Param& other, int64_t i) {
        return other.spec.name == param.spec.name && i == at ? 1.0 : 0.0;
      });
      INFO(param.spec.name << " element " << at);
      CHECK(std::abs(single - gradient[static_cast<size_t>(at)]) <= 1e-10 * (1 + std::abs(single)));
    }
  }
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
