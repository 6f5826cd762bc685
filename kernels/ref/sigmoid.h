// y = σ(x); y may be x, and dx may be dy.
#pragma once
#include "kernels/ref/scalar.h"

namespace sffn::ref {

template <class T>
void sigmoid_forward(T* y, const T* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = sigmoid(x[i]);
}

template <class T>
void sigmoid_backward(T* dx, const T* dy, const T* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) dx[i] = dy[i] * sigmoid(x[i]) * sigmoid(-x[i]);  // σ' = σ(x)·σ(-x)
}

}  // namespace sffn::ref
