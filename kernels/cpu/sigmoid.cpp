#include "kernels/ref/sigmoid.h"

#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/softmax_row.h"
#include "kernels/ops.h"

namespace sffn::cpu {
namespace {

constexpr int64_t kGrain = 16384;

}  // namespace

void sigmoid_forward(Stream&, Tensor y, const Tensor& x) {
  with_accumulate_type(x.dtype(), [&]<class T>(T) {
    T* out = y.data<T>();
    const T* in = x.data<T>();
    if constexpr (kIsReference<T>) {
      ref::sigmoid_forward(out, in, x.numel());
    } else {
      parallel_chunks(x.numel(), kGrain, [&](int64_t first, int64_t last) {
#pragma omp simd
        for (int64_t i = first; i < last; ++i) out[i] = sigmoid_f32(in[i]);
      });
    }
  });
}

void sigmoid_backward(Stream&, Tensor dx, const Tensor& dy, const Tensor& x) {
  with_accumulate_type(x.dtype(), [&]<class T>(T) {
    T* out = dx.data<T>();
    const T *gradient = dy.data<T>(), *in = x.data<T>();
    if constexpr (kIsReference<T>) {
      ref::sigmoid_backward(out, gradient, in, x.numel());
    } else {
      parallel_chunks(x.numel(), kGrain, [&](int64_t first, int64_t last) {
#pragma omp simd
        for (int64_t i = first; i < last; ++i) out[i] = gradient[i] * sigmoid_f32(in[i]) * sigmoid_f32(-in[i]);
      });
    }
  });
}

}  // namespace sffn::cpu
