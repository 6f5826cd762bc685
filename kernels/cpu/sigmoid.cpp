#include "core/stream.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/softmax_row.h"
#include "kernels/ops.h"
#include "kernels/ref/scalar.h"

namespace sffn::cpu {
namespace {

constexpr int64_t kGrain = 16384;

}  // namespace

void sigmoid_forward(Stream&, Tensor y, const Tensor& x) {
  with_accumulate_type(x.dtype(), [&]<class T>(T) {
    T* out = y.data<T>();
    const T* in = x.data<T>();
    if constexpr (kIsReference<T>) {
      for (int64_t i = 0; i < x.numel(); ++i) out[i] = ref::sigmoid(in[i]);
    } else {
      parallel_chunks(x.numel(), kGrain, [&](int64_t first, int64_t last) {
#pragma omp simd
        for (int64_t i = first; i < last; ++i) out[i] = sigmoid_f32(in[i]);
      });
    }
  });
}

}  // namespace sffn::cpu
