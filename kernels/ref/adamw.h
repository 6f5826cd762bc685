// One step of AdamW on n parameters; lr, t and gradient_scale are numbers of the update. Loshchilov & Hutter, arXiv
// 1711.05101, algorithm 2, the decay times lr:
//   g = gradient_scale·grad;  m = β₁m + (1-β₁)g;  v = β₂v + (1-β₂)g²
//   w = w - lr·( (m/(1-β₁^t)) / (√(v/(1-β₂^t)) + eps) + weight_decay·w )
#pragma once
#include "kernels/ref/scalar.h"
#include "kernels/types.h"

#include <cmath>
#include <cstdint>

namespace sffn::ref {

template <class T>
void adamw(T* w, T* m, T* v, const T* grad, int64_t n, const double* numbers, const AdamWOptions& s) {
  const double step_number = numbers[update::kStep];
  const T scale = constant<T>(numbers[update::kGradientScale]), rate = constant<T>(numbers[update::kLearningRate]);
  const T beta1 = constant<T>(s.beta1), beta2 = constant<T>(s.beta2);
  const T correction1 = constant<T>(1 - std::pow(s.beta1, step_number));
  const T correction2 = constant<T>(1 - std::pow(s.beta2, step_number));
  for (int64_t i = 0; i < n; ++i) {
    const T g = scale * grad[i];
    m[i] = beta1 * m[i] + (T(1) - beta1) * g;
    v[i] = beta2 * v[i] + (T(1) - beta2) * square(g);
    const T step = m[i] / correction1 / (std::sqrt(v[i] / correction2) + constant<T>(s.eps));
    w[i] -= rate * (step + constant<T>(s.weight_decay) * w[i]);
  }
}

}  // namespace sffn::ref
