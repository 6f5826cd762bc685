// c = op(a)·op(b) + bias (+ c), the definition: op(a) [M,K], op(b) [K,N], c [M,N], bias [N] or nullptr.
#pragma once
#include "kernels/types.h"

#include <cstdint>

namespace sffn::ref {

template <class T>
void matmul(T* c, const T* a, Transpose ta, const T* b, Transpose tb, const T* bias, Accumulate accumulate, int64_t M,
            int64_t N, int64_t K) {
  for (int64_t m = 0; m < M; ++m) {
    for (int64_t n = 0; n < N; ++n) {
      T sum = bias != nullptr ? bias[n] : T{};
      for (int64_t k = 0; k < K; ++k) {
        const T a_mk = ta == Transpose::kYes ? a[k * M + m] : a[m * K + k];
        const T b_kn = tb == Transpose::kYes ? b[n * K + k] : b[k * N + n];
        sum += a_mk * b_kn;
      }
      c[m * N + n] = accumulate == Accumulate::kYes ? c[m * N + n] + sum : sum;
    }
  }
}

}  // namespace sffn::ref
