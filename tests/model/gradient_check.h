// Gradients of whole models against complex steps of the same code in complex<double>.
#pragma once
#include "model/model_run.h"
#include "support/complex_step.h"

namespace sffn::test {

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
  const double extra_scale = scale * static_cast<double>(batch.batch * batch.time);
  return (scale * inspection.nll.imag() + extra_scale * inspection.extra_loss.imag()) / kComplexStep;
}

inline double direction_of(const Param& param, int64_t i) {
  return random_normal(random_key(23, param.spec.name), static_cast<uint64_t>(i));
}

// Of scale·(Σ nll + B·T·extra losses), at parameters drawn by ModelRun.
inline void check_gradients(const Config& config, const Batch& batch) {
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

}  // namespace sffn::test
