#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"
#include "kernels/ops.h"
#include "kernels/ref/blocks.h"

#include <algorithm>

namespace sffn::cpu {
namespace {

template <class T>
void weight_gradient(float* dw, const T* h, const float* weights, const T* x, const BlockRows& rows, int64_t G,
                     int64_t D) {
  parallel_chunks(rows.blocks, 1, [&](int64_t i, int64_t) {
    for (int64_t c = 0; c < rows.chunks(); ++c) {
      for (int64_t p = rows.first(c, i); p < rows.last(c, i); ++p) {
        const T* x_n = x + rows.token(p) * D;
        const float weight = weights != nullptr ? weights[rows.order[p]] : 1.0f;
        for (int64_t j = 0; j < G; ++j) {
          const float h_pj = weight * static_cast<float>(h[p * G + j]);
          float* to = dw + (i * G + j) * D;
#pragma omp simd
          for (int64_t d = 0; d < D; ++d) to[d] += h_pj * static_cast<float>(x_n[d]);
        }
      }
    }
  });
}

}  // namespace

void block_weight_gradient(Stream&, Tensor dw, const Tensor& h, const Tensor& weights, const Tensor& x,
                           const BlockRouting& routing) {
  const BlockRows rows(routing);
  const int64_t G = h.cols(), D = x.cols();
  with_float_type(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    if constexpr (kIsReference<T>) {
      ref::block_weight_gradient(dw.data<T>(), h.data<T>(), weights.data_or_null<T>(), x.data<T>(), rows, G, D);
    } else {
      weight_gradient(dw.data<float>(), h.data<T>(), weights.data_or_null<float>(), x.data<T>(), rows, G, D);
    }
  });
}

}  // namespace sffn::cpu
