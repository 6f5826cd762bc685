// The time goes into the normal draws, which are made again in the backward pass; so the reference's loops serve f32
// too, cut among the threads.
#include "kernels/ref/noisy_scores.h"

#include "core/stream.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/ops.h"

namespace sffn::cpu {
namespace {

constexpr int64_t kGrain = 4096;

Draws shifted(Draws draws, int64_t elements) {
  draws.first_index += elements;
  return draws;
}

}  // namespace

void noisy_scores_forward(Stream&, Tensor noisy, const Tensor& logits, const Tensor& spread, const Draws& given) {
  const Draws draws = given.now();
  with_accumulate_type(logits.dtype(), [&]<class T>(T) {
    T* out = noisy.data<T>();
    const T *in = logits.data<T>(), *width = spread.data<T>();
    parallel_chunks(logits.numel(), kGrain, [&](int64_t first, int64_t last) {
      ref::noisy_scores_forward(out + first, in + first, width + first, last - first, shifted(draws, first));
    });
  });
}

void noisy_scores_backward(Stream&, Tensor dlogits, Tensor dspread, const Tensor& dnoisy, const Tensor& spread,
                           const Draws& given) {
  const Draws draws = given.now();
  with_accumulate_type(dnoisy.dtype(), [&]<class T>(T) {
    T *out = dlogits.data<T>(), *out_width = dspread.data<T>();
    const T *gradient = dnoisy.data<T>(), *width = spread.data<T>();
    parallel_chunks(dnoisy.numel(), kGrain, [&](int64_t first, int64_t last) {
      ref::noisy_scores_backward(out + first, out_width + first, gradient + first, width + first, last - first,
                                 shifted(draws, first));
    });
  });
}

}  // namespace sffn::cpu
