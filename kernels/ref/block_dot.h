// scores[n,i] = Σ_{c in block i} h[n,c]·v[c], block i the cells [i·G, (i+1)·G), G = M / B.
#pragma once
#include "kernels/ref/scalar.h"

namespace sffn::ref {

template <class T>
void block_dot_forward(T* scores, const T* h, const T* v, int64_t N, int64_t M, int64_t B) {
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t i = 0; i < B; ++i) scores[n * B + i] = T(0);
    for (int64_t c = 0; c < M; ++c) scores[n * B + c / (M / B)] += h[n * M + c] * v[c];
  }
}

template <class T>
void block_dot_backward(T* dh, T* dv, const T* dscores, const T* h, const T* v, int64_t N, int64_t M, int64_t B) {
  for (int64_t c = 0; c < M; ++c) dv[c] = T(0);
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t c = 0; c < M; ++c) {  // scores[n,i] += h[n,c]·v[c]
      const T dscore = dscores[n * B + c / (M / B)];
      dh[n * M + c] += dscore * v[c];
      dv[c] += dscore * h[n * M + c];
    }
  }
}

}  // namespace sffn::ref
