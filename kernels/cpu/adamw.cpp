#include "kernels/ref/adamw.h"

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/ops.h"

#include <cmath>

namespace sffn::cpu {
namespace {

constexpr int64_t kGrain = 16384;

// Every multiply-add is written out and division and root are exact, so that an element's new value does not depend on
// where a rank's range begins.
void update(float* w, bfloat16* rounded, float* m, float* v, const float* grad, int64_t n, const double* numbers,
            const AdamWOptions& s) {
  const auto beta1 = static_cast<float>(s.beta1), rest1 = static_cast<float>(1 - s.beta1);
  const auto beta2 = static_cast<float>(s.beta2), rest2 = static_cast<float>(1 - s.beta2);
  const double step = numbers[update::kStep];
  const auto unbias1 = static_cast<float>(1 / (1 - std::pow(s.beta1, step)));
  const auto unbias2 = static_cast<float>(1 / (1 - std::pow(s.beta2, step)));
  const auto minus_rate = static_cast<float>(-numbers[update::kLearningRate]), eps = static_cast<float>(s.eps);
  const auto decay = static_cast<float>(s.weight_decay), scale = static_cast<float>(numbers[update::kGradientScale]);
  parallel_chunks(n, kGrain, [&](int64_t first, int64_t last) {
#pragma omp simd
    for (int64_t i = first; i < last; ++i) {
      const float g = scale * grad[i];
      m[i] = multiply_add(beta1, m[i], rest1 * g);
      v[i] = multiply_add(beta2, v[i], rest2 * g * g);
      const float direction = (m[i] * unbias1) / (std::sqrt(v[i] * unbias2) + eps);
      w[i] = multiply_add(minus_rate, multiply_add(decay, w[i], direction), w[i]);
    }
    if (rounded) {
#pragma omp simd
      for (int64_t i = first; i < last; ++i) rounded[i] = w[i];
    }
  });
}

}  // namespace

void adamw(Stream&, Tensor master, Tensor rounded, Tensor m, Tensor v, const Tensor& grad,
           const Tensor& numbers_of_update, const AdamWOptions& options) {
  const double* numbers = numbers_of_update.data<double>();
  if (numbers[update::kApplied] == 0) return;
  if (master.dtype() == DType::kF32) {
    return update(master.data<float>(), rounded.data_or_null<bfloat16>(), m.data<float>(), v.data<float>(),
                  grad.data<float>(), master.numel(), numbers, options);
  }
  ref::adamw(master.data<double>(), m.data<double>(), v.data<double>(), grad.data<double>(), master.numel(), numbers,
             options);
  if (bfloat16* low = rounded.data_or_null<bfloat16>()) {
    for (int64_t i = 0; i < master.numel(); ++i) low[i] = static_cast<float>(master.data<double>()[i]);
  }
}

}  // namespace sffn::cpu
