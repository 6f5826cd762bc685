#include "kernels/ref/activation.h"

#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/ops.h"

#include <array>
#include <atomic>
#include <cmath>

namespace sffn::cpu {
namespace {

constexpr int64_t kGrain = 16384;

// f(z) and f'(z) of one element.
struct Pair {
  float value, slope;
};

struct Relu {
  static float value(float z) { return z > 0.0f ? z : 0.0f; }
  static Pair both(float z) { return {value(z), z > 0.0f ? 1.0f : 0.0f}; }
};

// (1 + tanh u)/2 = σ(2u), so f = z·σ(2u) and f' = σ + z·σ(1-σ)·2u', with 1 - σ as e^-2u·σ: no cancellation.
struct Gelu {
  static constexpr float kTwoSlope = 1.59576912f;  // 2√(2/π)
  static constexpr float kCubic = 0.044715f;
  static float twice_u(float z) { return kTwoSlope * z * multiply_add(kCubic * z, z, 1.0f); }
  static float value(float z) { return z / (1.0f + exp_f32(-twice_u(z))); }
  static Pair both(float z) {
    const float exponent = -twice_u(z);
    const float e = exp_f32(exponent > 88.0f ? 88.0f : exponent);
    const float s = 1.0f / (1.0f + e);
    const float du = kTwoSlope * multiply_add(3.0f * kCubic * z, z, 1.0f);
    return {z * s, multiply_add(z * s * (e * s), du, s)};
  }
};

struct GeluErf {
  static float value(float z) {
    float cdf, density;
    normal_f32(z, cdf, density);
    return z * cdf;
  }
  static Pair both(float z) {
    float cdf, density;
    normal_f32(z, cdf, density);
    return {z * cdf, multiply_add(z, density, cdf)};
  }
};

struct Silu {
  static float value(float z) { return z / (1.0f + exp_f32(-z)); }
  static Pair both(float z) {
    const float e = exp_f32(z < -88.0f ? 88.0f : -z);
    const float s = 1.0f / (1.0f + e);
    return {z * s, multiply_add(z * s, e * s, s)};
  }
};

template <class F>
void with_activation(Activation f, F&& body) {
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

template <class Function, class T>
void forward(T* h, const T* z, const T* gate, int64_t n) {
  parallel_chunks(n, kGrain, [&](int64_t first, int64_t last) {
    if (gate) {
#pragma omp simd
      for (int64_t i = first; i < last; ++i) {
        h[i] = Function::value(static_cast<float>(gate[i])) * static_cast<float>(z[i]);
      }
    } else {
#pragma omp simd
      for (int64_t i = first; i < last; ++i) h[i] = Function::value(static_cast<float>(z[i]));
    }
  });
}

template <class Function, class T>
void backward(T* dz, T* dgate, const T* dh, const T* z, const T* gate, int64_t n) {
  parallel_chunks(n, kGrain, [&](int64_t first, int64_t last) {
    if (gate) {
#pragma omp simd
      for (int64_t i = first; i < last; ++i) {
        const Pair f = Function::both(static_cast<float>(gate[i]));
        const auto d = static_cast<float>(dh[i]);
        dgate[i] = d * static_cast<float>(z[i]) * f.slope;
        dz[i] = d * f.value;
      }
    } else {
#pragma omp simd
      for (int64_t i = first; i < last; ++i) {
        dz[i] = static_cast<float>(dh[i]) * Function::both(static_cast<float>(z[i])).slope;
      }
    }
  });
}

using NearZero = std::array<int64_t, kNearZero.size()>;

template <class Function, class T>
NearZero near_zero_range(const T* z, int64_t first, int64_t last) {
  int32_t a = 0, b = 0, c = 0;
#pragma omp simd reduction(+ : a, b, c)
  for (int64_t i = first; i < last; ++i) {
    const float size = std::abs(Function::value(static_cast<float>(z[i])));
    a += size < static_cast<float>(kNearZero[0]);
    b += size < static_cast<float>(kNearZero[1]);
    c += size < static_cast<float>(kNearZero[2]);
  }
  return {a, b, c};
}

template <class Function, class T>
void count_near_zero(NearZero& below, const T* z, int64_t n) {
  std::array<std::atomic<int64_t>, kNearZero.size()> found{};
  parallel_chunks(n, kGrain, [&](int64_t first, int64_t last) {
    const NearZero here = near_zero_range<Function>(z, first, last);
    for (size_t t = 0; t < here.size(); ++t) found[t] += here[t];
  });
  for (size_t t = 0; t < below.size(); ++t) below[t] = found[t];
}

}  // namespace

void activation_forward(Stream&, Tensor h, const Tensor& z, const Tensor& gate, Activation f) {
  with_float_type(z.dtype(), [&](auto type) {
    using T = decltype(type);
    T* out = h.data<T>();
    const T *in = z.data<T>(), *gates = gate.data_or_null<T>();
    if constexpr (kIsReference<T>) {
      ref::activation_forward(out, in, gates, z.numel(), f);
    } else {
      with_activation(f, [&](auto function) { forward<decltype(function)>(out, in, gates, z.numel()); });
    }
  });
}

void activation_backward(Stream&, Tensor dz, Tensor dgate, const Tensor& dh, const Tensor& z, const Tensor& gate,
                         Activation f) {
  with_float_type(z.dtype(), [&](auto type) {
    using T = decltype(type);
    T *out = dz.data<T>(), *dgates = dgate.data_or_null<T>();
    const T *grad = dh.data<T>(), *in = z.data<T>(), *gates = gate.data_or_null<T>();
    if constexpr (kIsReference<T>) {
      ref::activation_backward(out, dgates, grad, in, gates, z.numel(), f);
    } else {
      with_activation(f, [&](auto function) { backward<decltype(function)>(out, dgates, grad, in, gates, z.numel()); });
    }
  });
}

void count_near_zero(Stream&, Tensor counts, const Tensor& z, Activation f) {
  NearZero below{};
  with_float_type(z.dtype(), [&](auto type) {
    using T = decltype(type);
    if constexpr (kIsReference<T>) {
      ref::count_near_zero(below.data(), z.data<T>(), z.numel(), f);
    } else {
      with_activation(f, [&](auto function) { count_near_zero<decltype(function)>(below, z.data<T>(), z.numel()); });
    }
  });
  auto* sums = counts.data<double>();
  sums[0] += static_cast<double>(z.numel());
  for (size_t t = 0; t < below.size(); ++t) sums[1 + t] += static_cast<double>(below[t]);
}

}  // namespace sffn::cpu
