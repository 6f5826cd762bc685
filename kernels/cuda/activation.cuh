// f(z) and f'(z) of the activations, in float. No products hide what value() takes at their end: of gelu and silu it is
// one power and one reciprocal.
#pragma once
#include "kernels/cuda/exp2.cuh"
#include "kernels/types.h"

#include <cuda_runtime.h>

#include <cmath>

namespace sffn::cuda {

struct ValueAndSlope {
  float value, slope;
};

struct Relu {
  static __device__ float value(float z) { return z > 0 ? z : 0.0f; }
  static __device__ ValueAndSlope both(float z) { return {value(z), z > 0 ? 1.0f : 0.0f}; }
};

// (1 + tanh u)/2 = σ(2u), so f = z·σ(2u) and f' = σ + z·σ(1-σ)·2u', with 1 - σ as e^-2u·σ: no cancellation.
struct Gelu {
  static constexpr float kTwoSlope = 1.59576912f;  // 2√(2/π)
  static constexpr float kCubic = 0.044715f;
  static constexpr float kExponent = -2.30220819f;  // -2√(2/π)·log2(e)
  static __device__ float twice_u(float z) { return kTwoSlope * z * fmaf(kCubic * z, z, 1.0f); }
  static __device__ float value(float z) {
    return z * reciprocal_fast(1.0f + exp2_fast(kExponent * z * fmaf(kCubic * z, z, 1.0f)));
  }
  static __device__ ValueAndSlope both(float z) {
    const float exponent = -twice_u(z);
    const float e = expf(exponent > 88.0f ? 88.0f : exponent);
    const float s = 1.0f / (1.0f + e);
    const float du = kTwoSlope * fmaf(3.0f * kCubic * z, z, 1.0f);
    return {z * s, fmaf(z * s * (e * s), du, s)};
  }
};

// f = z·Φ(z), f' = Φ + z·φ. Φ(-a) = e^(-a²/2)·t·h(t), t = 1 / (1 + 0.24 a), for a >= 0, keeps its relative accuracy in
// the tail; h interpolates at Chebyshev nodes to 4e-9.
struct GeluErf {
  struct Normal {
    float cdf, density;
  };
  static __device__ Normal normal(float z) {
    const float a = fminf(fabsf(z), 20.0f);  // Φ(-20) is 0 in float
    const float square = a * a;
    const float rounding = fmaf(a, a, -square);  // e^(-a²/2) needs a² beyond float
    const float gauss = expf(-0.5f * square) * (1.0f - 0.5f * rounding);
    const float d = fmaf(0.24f, a, 1.0f), close = reciprocal_fast(d);
    const float t = fmaf(close, fmaf(-d, close, 1.0f), close);
    float h = 2.54010162e-2f;
    h = fmaf(h, t, -1.23965239e-1f);
    h = fmaf(h, t, 2.03910975e-1f);
    h = fmaf(h, t, -1.42182733e-1f);
    h = fmaf(h, t, 1.39705592e-1f);
    h = fmaf(h, t, 2.91059729e-2f);
    h = fmaf(h, t, 8.74243804e-2f);
    h = fmaf(h, t, 8.90097558e-2f);
    h = fmaf(h, t, 9.58476781e-2f);
    h = fmaf(h, t, 9.57426020e-2f);
    const float tail = gauss * t * h;
    return {z < 0 ? tail : 1.0f - tail, gauss * 0.398942280f};
  }
  static __device__ float value(float z) { return z * normal(z).cdf; }
  static __device__ ValueAndSlope both(float z) {
    const Normal at = normal(z);
    return {z * at.cdf, fmaf(z, at.density, at.cdf)};
  }
};

struct Silu {
  static __device__ float value(float z) { return z * reciprocal_fast(1.0f + exp_fast(-z)); }
  static __device__ ValueAndSlope both(float z) {
    const float e = expf(z < -88.0f ? 88.0f : -z);
    const float s = 1.0f / (1.0f + e);
    return {z * s, fmaf(z * s, e * s, s)};
  }
};

// body(F{}) for the activation's functions F.
template <class Body>
void with_activation(Activation f, Body&& body) {
  switch (f) {
    case Activation::kRelu:
      return body(Relu{});
    case Activation::kGelu:
      return body(Gelu{});
    case Activation::kGeluErf:
      return body(GeluErf{});
    case Activation::kSilu:
      return body(Silu{});
  }
}

}  // namespace sffn::cuda
