// h = f(z), or h = f(gate) ⊙ z.
#pragma once
#include "kernels/ref/scalar.h"
#include "kernels/types.h"

#include <cstdint>
#include <numbers>

namespace sffn::ref {

// relu max(z, 0); gelu z/2·(1 + tanh(√(2/π)(z + 0.044715 z³))) and gelu_erf z/2·(1 + erf(z/√2))
// (Hendrycks & Gimpel, arXiv 1606.08415, section 2); silu z/(1 + e^-z).
template <class T>
T activation(T z, Activation f) {
  switch (f) {
    case Activation::kRelu:
      return real(z) > 0 ? z : T(0);
    case Activation::kGelu: {
      const T u = constant<T>(std::sqrt(2 / std::numbers::pi)) * (z + constant<T>(0.044715) * z * z * z);
      return constant<T>(0.5) * z * (T(1) + std::tanh(u));
    }
    case Activation::kGeluErf:
      return constant<T>(0.5) * z * (T(1) + error_function(z * constant<T>(1 / std::numbers::sqrt2)));
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
    case Activation::kGelu: {
      // u = √(2/π)(z + 0.044715 z³);  f = z/2·(1 + tanh u),  tanh' = 1 - tanh²
      const T slope = constant<T>(std::sqrt(2 / std::numbers::pi));
      const T u = slope * (z + constant<T>(0.044715) * z * z * z);
      const T du = slope * (T(1) + constant<T>(3 * 0.044715) * z * z);
      const T t = std::tanh(u);
      return constant<T>(0.5) * (T(1) + t) + constant<T>(0.5) * z * (T(1) - t * t) * du;
    }
    case Activation::kGeluErf: {
      // f = z·Φ(z), Φ(z) = (1 + erf(z/√2))/2, Φ' = e^(-z²/2)/√(2π)
      const T cdf = constant<T>(0.5) * (T(1) + error_function(z * constant<T>(1 / std::numbers::sqrt2)));
      const T density = std::exp(constant<T>(-0.5) * z * z) * constant<T>(1 / std::sqrt(2 * std::numbers::pi));
      return cdf + z * density;
    }
    case Activation::kSilu: {
      // f = z·σ(z), σ' = σ(1 - σ)
      const T s = sigmoid(z);
      return s + z * s * (T(1) - s);
    }
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

}  // namespace sffn::ref
