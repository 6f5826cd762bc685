#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/reduce.h"
#include "kernels/ops.h"
#include "kernels/ref/blocks.h"

#include <algorithm>

namespace sffn::cpu {
namespace {

constexpr int64_t kGrain = 16384;  // elements a chunk

// ⟨h, dh⟩; dh *= weight
template <class T>
float weigh_row(T* dh, const T* h, float weight, int64_t G) {
  const auto product = [&](int64_t j) { return static_cast<float>(h[j]) * static_cast<float>(dh[j]); };
  float dot = 0;
  if (G < kSumLanes) {
    for (int64_t j = 0; j < G; ++j) dot += product(j);
  } else {
    dot = lane_sum<float>(G, product);
  }
#pragma omp simd
  for (int64_t j = 0; j < G; ++j) dh[j] = weight * static_cast<float>(dh[j]);
  return dot;
}

template <class T>
void weigh(T* dh, float* dweights, const T* h, const float* weights, const int32_t* inverse, int64_t P, int64_t G) {
  parallel_chunks(P, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, G)), [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c) {
      const int64_t r = inverse != nullptr ? inverse[c] : c;
      dweights[c] = r < 0 ? 0 : weigh_row(dh + r * G, h + r * G, weights[c], G);
    }
  });
}

}  // namespace

void weigh_backward(Stream&, Tensor dh, Tensor dweights, const Tensor& h, const Tensor& weights,
                    const Tensor& inverse) {
  const int64_t P = h.rows(), G = h.cols();
  const int32_t* rows = inverse.data_or_null<int32_t>();
  with_float_type(h.dtype(), [&](auto zero) {
    using T = decltype(zero);
    if constexpr (kIsReference<T>) {
      ref::weigh_backward(dh.data<T>(), dweights.data<T>(), h.data<T>(), weights.data<T>(), rows, P, G);
    } else {
      weigh(dh.data<T>(), dweights.data<float>(), h.data<T>(), weights.data<float>(), rows, P, G);
    }
  });
}

}  // namespace sffn::cpu
