// g = gradient_scale·grad;  m = β₁m + (1-β₁)g;  v = β₂v + (1-β₂)g²
// w -= lr·( (m/(1-β₁^t)) / (√(v/(1-β₂^t)) + eps) + weight_decay·w );  rounded = bf16(w) when given         all [n] f32
// with lr, t and gradient_scale from the numbers of the update, which may say that it is not to be.
// One pass, four elements a thread. Every multiply-add is written out, so that a value does not depend on where a
// rank's range begins: aligned or not.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace {

constexpr int kThreads = 256, kCount = 4;

struct StepConstants {
  float beta1, rest1, beta2, rest2, unbias1, unbias2, minus_rate, eps, decay, scale;
};

__device__ StepConstants constants_of(const AdamWOptions& s, const double* numbers) {
  const double step = numbers[update::kStep];
  const auto f = [](double x) { return static_cast<float>(x); };
  return {.beta1 = f(s.beta1),
          .rest1 = f(1 - s.beta1),
          .beta2 = f(s.beta2),
          .rest2 = f(1 - s.beta2),
          .unbias1 = f(1 / (1 - pow(s.beta1, step))),
          .unbias2 = f(1 / (1 - pow(s.beta2, step))),
          .minus_rate = f(-numbers[update::kLearningRate]),
          .eps = f(s.eps),
          .decay = f(s.weight_decay),
          .scale = f(numbers[update::kGradientScale])};
}

template <bool kAligned>
__global__ void adamw_kernel(float* w, bfloat16* rounded, float* m, float* v, const float* grad, int64_t n,
                             const double* numbers, AdamWOptions options) {
  __shared__ StepConstants of_step;
  if (numbers[update::kApplied] == 0) return;
  if (threadIdx.x == 0) of_step = constants_of(options, numbers);
  __syncthreads();
  const StepConstants c = of_step;
  const int64_t first = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kCount, count = n - first;
  if (count <= 0) return;
  float w_[kCount], m_[kCount], v_[kCount], grad_[kCount];
  load_floats<kAligned>(w_, w + first, count);
  load_floats<kAligned>(m_, m + first, count);
  load_floats<kAligned>(v_, v + first, count);
  load_floats<kAligned>(grad_, grad + first, count);
  for (int i = 0; i < kCount; ++i) {
    const float g = c.scale * grad_[i];
    m_[i] = fmaf(c.beta1, m_[i], c.rest1 * g);
    v_[i] = fmaf(c.beta2, v_[i], c.rest2 * g * g);
    const float direction = (m_[i] * c.unbias1) / (sqrtf(v_[i] * c.unbias2) + c.eps);
    w_[i] = fmaf(c.minus_rate, fmaf(c.decay, w_[i], direction), w_[i]);
  }
  store_floats<kAligned>(w + first, w_, count);
  store_floats<kAligned>(m + first, m_, count);
  store_floats<kAligned>(v + first, v_, count);
  if (rounded != nullptr) store_floats<kAligned>(rounded + first, w_, count);
}

}  // namespace

void adamw(Stream& stream, Tensor master, Tensor rounded, Tensor m, Tensor v, const Tensor& grad, const Tensor& numbers,
           const AdamWOptions& options) {
  const int64_t n = master.numel();
  const bool aligned = is_aligned(master.raw()) && is_aligned(rounded.raw()) && is_aligned(m.raw()) &&
                       is_aligned(v.raw()) && is_aligned(grad.raw());
  with_constant(aligned, [&]<bool kAligned>(std::bool_constant<kAligned>) {
    launch(stream, adamw_kernel<kAligned>, {blocks_for(n, kThreads * kCount), kThreads},
           Work{bytes_of(master, master, m, m, v, v, grad, rounded)}, master.data<float>(),
           rounded.data_or_null<bfloat16>(), m.data<float>(), v.data<float>(), grad.data<float>(), n,
           numbers.data<double>(), options);
  });
}

}  // namespace sffn::cuda
