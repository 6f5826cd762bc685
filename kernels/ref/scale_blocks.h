// out[n,c] = weights[n, c / G]·h[n,c], G = M / B. out may be h.
#pragma once
#include "kernels/ref/scalar.h"

namespace sffn::ref {

template <class T>
void scale_blocks(T* out, const T* h, const T* weights, int64_t N, int64_t M, int64_t B) {
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t c = 0; c < M; ++c) out[n * M + c] = weights[n * B + c / (M / B)] * h[n * M + c];
  }
}

}  // namespace sffn::ref
