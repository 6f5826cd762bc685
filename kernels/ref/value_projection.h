// v[c] = ⟨values[c], router[c / G]⟩, G = M / B cells a block.
#pragma once
#include "kernels/ref/scalar.h"

namespace sffn::ref {

template <class T>
void value_projection_forward(T* v, const T* values, const T* router, int64_t M, int64_t B, int64_t D) {
  for (int64_t c = 0; c < M; ++c) {
    const T* direction = router + c / (M / B) * D;
    v[c] = T(0);
    for (int64_t d = 0; d < D; ++d) v[c] += values[c * D + d] * direction[d];
  }
}

template <class T>
void value_projection_backward(T* dvalues, T* drouter, const T* dv, const T* values, const T* router, int64_t M,
                               int64_t B, int64_t D) {
  for (int64_t c = 0; c < M; ++c) {
    const int64_t block = c / (M / B);
    for (int64_t d = 0; d < D; ++d) {  // v[c] += values[c,d]·router[block,d]
      dvalues[c * D + d] += dv[c] * router[block * D + d];
      drouter[block * D + d] += dv[c] * values[c * D + d];
    }
  }
}

}  // namespace sffn::ref
