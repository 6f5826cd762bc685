#include "kernels/ref/scale_blocks.h"

#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/ops.h"

namespace sffn::cpu {
namespace {

constexpr int64_t kGrain = 16384;  // elements a chunk

template <class T>
void scale(T* out, const T* h, const float* weights, int64_t N, int64_t M, int64_t B) {
  const int64_t G = M / B;
  parallel_chunks(N, std::max<int64_t>(1, kGrain / M), [&](int64_t first, int64_t last) {
    for (int64_t p = first * B; p < last * B; ++p) {
      const float weight = weights[p];
#pragma omp simd
      for (int64_t j = p * G; j < (p + 1) * G; ++j) out[j] = weight * static_cast<float>(h[j]);
    }
  });
}

}  // namespace

void scale_blocks(Stream&, Tensor out, const Tensor& h, const Tensor& weights) {
  const int64_t N = h.rows(), M = h.cols(), B = weights.cols();
  with_float_type(h.dtype(), [&](auto type) {
    using T = decltype(type);
    if constexpr (kIsReference<T>) {
      ref::scale_blocks(out.data<T>(), h.data<T>(), weights.data<T>(), N, M, B);
    } else {
      scale(out.data<T>(), h.data<T>(), weights.data<float>(), N, M, B);
    }
  });
}

}  // namespace sffn::cpu
