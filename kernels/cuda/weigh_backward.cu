// dweights[c] = ⟨h[r], dh[r]⟩;  dh[r] *= weights[c],  r = inverse[c], or c        dh, h [P,G]  dweights, weights [N,b]
// The lanes of a row read h and dh once: dh goes back scaled, the product is summed over the lanes. Two choices never
// have one row.
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/row_lanes.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace {

template <int kCount, class T>
__global__ void weigh_backward_kernel(T* dh, float* dweights, const T* h, const float* weights, const int32_t* inverse,
                                      int64_t P, int64_t G) {
  const int64_t c = row_of_thread();
  const int64_t r = c >= P ? -1 : inverse != nullptr ? inverse[c] : c;
  float dot = 0;
  if (r >= 0) {
    const float weight = weights[c];
    for (int64_t j = threadIdx.x * kCount; j < G; j += blockDim.x * kCount) {
      float hidden[kCount], gradient[kCount];
      load_floats(hidden, h + r * G + j);
      load_floats(gradient, dh + r * G + j);
      for (int e = 0; e < kCount; ++e) {
        dot += hidden[e] * gradient[e];
        gradient[e] *= weight;
      }
      store_floats(dh + r * G + j, gradient);
    }
  }
  dot = lanes_sum(dot);
  if (c < P && threadIdx.x == 0) dweights[c] = dot;
}

}  // namespace

void weigh_backward(Stream& stream, Tensor dh, Tensor dweights, const Tensor& h, const Tensor& weights,
                    const Tensor& inverse) {
  const int64_t P = h.rows(), G = h.cols();
  with_activation_type("weigh_backward", h, [&]<class T>(T) {
    constexpr int kCount = kPackCount<T>;
    const bool packs = packs_fit(G, kCount, dh.data<T>(), h.data<T>());
    launch(stream, packs ? weigh_backward_kernel<kCount, T> : weigh_backward_kernel<1, T>,
           shape_of_rows(P, packs ? G / kCount : G, 32),
           Work{bytes_of(dh, dh, dweights, h, weights, inverse), flops_of(P, G)}, dh.data<T>(), dweights.data<float>(),
           h.data<T>(), weights.data<float>(), inverse.data_or_null<int32_t>(), P, G);
  });
}

}  // namespace sffn::cuda
