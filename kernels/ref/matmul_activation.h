// z = x·wᵀ + bias, h = f(z), or h = f(gate) ⊙ z; and the way back from y = h·v. x, dy [N,D]; w, v [M,D]; bias [M];
// the others [N,M].
#pragma once
#include "kernels/ref/activation.h"
#include "kernels/types.h"

#include <cstdint>

namespace sffn::ref {

// z, bias and gate may be null.
template <class T>
void matmul_activation_forward(T* h, T* z, const T* x, const T* w, const T* bias, const T* gate, int64_t N, int64_t M,
                               int64_t D, Activation f) {
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t m = 0; m < M; ++m) {
      T sum = bias != nullptr ? bias[m] : T{};
      for (int64_t d = 0; d < D; ++d) sum += x[n * D + d] * w[m * D + d];
      if (z != nullptr) z[n * M + m] = sum;
      h[n * M + m] = gate != nullptr ? activation(gate[n * M + m], f) * sum : activation(sum, f);
    }
  }
}

// dgate is null exactly when gate is.
template <class T>
void matmul_activation_backward(T* dz, T* dgate, const T* dy, const T* v, const T* z, const T* gate, int64_t N,
                                int64_t M, int64_t D, Activation f) {
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t m = 0; m < M; ++m) {
      const int64_t i = n * M + m;
      T dh{};
      for (int64_t d = 0; d < D; ++d) dh += dy[n * D + d] * v[m * D + d];  // y_nd = Σ_m h_nm v_md
      if (gate != nullptr) {                                               // h = f(gate)·z
        dgate[i] = dh * z[i] * activation_derivative(gate[i], f);
        dz[i] = dh * activation(gate[i], f);
      } else {  // h = f(z)
        dz[i] = dh * activation_derivative(z[i], f);
      }
    }
  }
}

}  // namespace sffn::ref
