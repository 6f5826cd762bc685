// h = f(z), or h = f(gate) ⊙ z.
#pragma once
#include "kernels/ref/scalar.h"
#include "kernels/types.h"

#include <cstdint>

namespace sffn::ref {

// 2u = 2√(2/π)(z + 0.044715 z³)
inline constexpr double kGeluSlope = 1.5957691216057308, kGeluCubic = 0.044715;
template <class T>
T gelu_argument(T z) {
  return constant<T>(kGeluSlope) * (z + constant<T>(kGeluCubic) * z * z * z);
}

// relu max(z, 0);  gelu_erf z·Φ(z), and gelu z/2·(1 + tanh u) with u = √(2/π)(z + 0.044715 z³) (Hendrycks & Gimpel,
// arXiv 1606.08415, section 2), written z·σ(2u), which is the same and does not cancel;  silu z·σ(z).
template <class T>
T activation(T z, Activation f) {
  switch (f) {
    case Activation::kRelu:
      return real(z) > 0 ? z : T(0);
    case Activation::kGelu:
      return z * sigmoid(gelu_argument(z));
    case Activation::kGeluErf:
      return z * normal_cdf(z);
    case Activation::kSilu:
      return z * sigmoid(z);
  }
  return T(0);
}

template <class T>
T activation_derivative(T z, Activation f) {
  switch (f) {
    case Activation::kRelu:
      return real(z) > 0 ? T(1) : T(0);
    case Activation::kGelu: {  // f = z·σ(2u), σ' = σ(1 - σ) and 1 - σ(x) = σ(-x)
      const T argument = gelu_argument(z);
      const T slope = constant<T>(kGeluSlope) * (T(1) + constant<T>(3 * kGeluCubic) * z * z);
      return sigmoid(argument) + z * sigmoid(argument) * sigmoid(-argument) * slope;
    }
    case Activation::kGeluErf:
      return normal_cdf(z) + z * normal_density(z);  // f = z·Φ(z), Φ' = φ
    case Activation::kSilu:
      return sigmoid(z) + z * sigmoid(z) * sigmoid(-z);  // f = z·σ(z)
  }
  return T(0);
}

// gate may be null.
template <class T>
void activation_forward(T* h, const T* z, const T* gate, int64_t n, Activation f) {
  for (int64_t i = 0; i < n; ++i) h[i] = gate ? activation(gate[i], f) * z[i] : activation(z[i], f);
}

// dgate is null exactly when gate is; dz may be dh.
template <class T>
void activation_backward(T* dz, T* dgate, const T* dh, const T* z, const T* gate, int64_t n, Activation f) {
  for (int64_t i = 0; i < n; ++i) {
    const T d = dh[i];
    if (gate) {  // h = f(gate)·z
      dgate[i] = d * z[i] * activation_derivative(gate[i], f);
      dz[i] = d * activation(gate[i], f);
    } else {  // h = f(z)
      dz[i] = d * activation_derivative(z[i], f);
    }
  }
}

// below[t] = elements with |f(z)| < kNearZero[t], by real parts
template <class T>
void count_near_zero(int64_t* below, const T* z, int64_t n, Activation f) {
  for (size_t t = 0; t < kNearZero.size(); ++t) {
    below[t] = 0;
    for (int64_t i = 0; i < n; ++i) below[t] += std::abs(static_cast<double>(real(activation(z[i], f)))) < kNearZero[t];
  }
}

}  // namespace sffn::ref
