// Of y_nm = Σ_d x_nd op(w)_dm + bias_m: op(dw)_dm += Σ_n x_nd dy_nm, dbias_m += Σ_n dy_nm. dbias may be null.
#pragma once
#include "kernels/types.h"

#include <cstdint>

namespace sffn::ref {

template <class T>
void weight_gradient(T* dw, T* dbias, const T* dy, const T* x, Transpose tw, int64_t N, int64_t M, int64_t D) {
  for (int64_t m = 0; m < M; ++m) {
    for (int64_t d = 0; d < D; ++d) {
      T sum{};
      for (int64_t n = 0; n < N; ++n) sum += x[n * D + d] * dy[n * M + m];
      dw[tw == Transpose::kYes ? m * D + d : d * M + m] += sum;
    }
    if (dbias == nullptr) continue;
    T sum{};
    for (int64_t n = 0; n < N; ++n) sum += dy[n * M + m];
    dbias[m] += sum;
  }
}

}  // namespace sffn::ref
