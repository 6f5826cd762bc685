// fp32 and bf16 against the same model in double, with the tolerances of a probe (interface.md section 5).
#include "model/model_run.h"

using namespace sffn;
using namespace sffn::test;

namespace {

// The tolerances of bf16 are for sums of many terms: where relu's argument changes its sign by rounding, one term of a
// gradient is wrong by all of itself.
Config wider(Config config) {
  config.model.d_model = 96;
  config.model.head_dim = 48;
  config.model.ffn.d_ff = 160;
  return config;
}

struct Tolerance {
  double values, gradients, one_gradient;
};

void check_against_double(const Config& config, Precision precision, Tolerance tolerance) {
  const Batch batch = random_batch(6, 9, 29);
  ModelRun exact(config, 6, 9), rounded(in_precision(config, precision), 6, 9);
  Inspection expected, found;
  expected.logits = expected.hidden = found.logits = found.hidden = true;
  const LossSum exact_loss = exact.forward_backward(batch, 1.0 / 17, &expected);
  const LossSum rounded_loss = rounded.forward_backward(batch, 1.0 / 17, &found);
  CHECK(rounded_loss.nll == Approx(exact_loss.nll).epsilon(tolerance.values));
  CHECK(relative_distance(found.logits_out, expected.logits_out) < tolerance.values);
  REQUIRE(expected.hidden_out.size() == 2);
  for (size_t layer = 0; layer < 2; ++layer) {
    CHECK(relative_distance(found.hidden_out[layer], expected.hidden_out[layer]) < tolerance.values);
  }
  std::vector<double> all_expected, all_found;
  for (const Param& param : exact.model().params().all()) {
    INFO(param.spec.name);
    const std::vector<double> one = exact.gradient(param);
    const std::vector<double> other = rounded.gradient(*rounded.model().params().find(param.spec.name));
    CHECK(relative_distance(other, one) < tolerance.one_gradient);
    all_expected.insert(all_expected.end(), one.begin(), one.end());
    all_found.insert(all_found.end(), other.begin(), other.end());
  }
  CHECK(relative_distance(all_found, all_expected) < tolerance.gradients);
}

}  // namespace

// Kills: a fast kernel that means something else than the reference, sums in too low a precision.
TEST_CASE("fp32 models agree with double", "[model]") {
  for (const auto& [name, config] : tiny_models()) {
    INFO(name);
    check_against_double(config, Precision::kFp32, {2e-5, 2e-4, 2e-4});
  }
}

// Kills: bf16 statistics, probabilities or gradients where fp32 is promised.
TEST_CASE("bf16 models agree with double", "[model]") {
  for (const auto& [name, config] : tiny_models()) {
    INFO(name);
    check_against_double(wider(config), Precision::kBf16, {3e-2, 6e-2, 1e-1});
  }
}
