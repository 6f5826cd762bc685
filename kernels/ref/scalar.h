// Scalar mathematics of the reference kernels, for T = float, double and std::complex<double>.
//
// A complex T carries a derivative in its imaginary part (complex step: f(x + ih) = f(x) + ih f'(x) + O(h²), exact to
// rounding for h = 1e-50). So every function here must be analytic where the real one is differentiable: choices,
// comparisons and |x| look at the real part only. std::abs (a modulus), std::norm, std::conj and std::pow of a
// negative base are wrong for this purpose and std::erf is not complex: use what stands here.
#pragma once
#include <cmath>
#include <complex>
#include <cstdint>
#include <numbers>
#include <type_traits>

namespace sffn::ref {

using Complex = std::complex<double>;

// float of float, double of double and of Complex: what sizes, epsilons and other constants are held in.
template <class T>
struct RealOf {
  using type = T;
};
template <>
struct RealOf<Complex> {
  using type = double;
};
template <class T>
using Real = typename RealOf<T>::type;

template <class T>
Real<T> real(T x) {
  if constexpr (std::is_same_v<T, Complex>) {
    return x.real();
  } else {
    return x;
  }
}

// A constant of the type of the mathematics at hand.
template <class T>
T constant(double value) {
  return T(static_cast<Real<T>>(value));
}

template <class T>
bool less(T a, T b) {
  return real(a) < real(b);
}
template <class T>
T maximum(T a, T b) {
  return less(a, b) ? b : a;
}
template <class T>
T absolute(T x) {
  return real(x) < 0 ? -x : x;
}
template <class T>
T square(T x) {
  return x * x;
}
template <class T>
T sigmoid(T x) {
  return T(1) / (T(1) + std::exp(-x));
}

// erf(z) for every z near the real axis: both forms are analytic and free of cancellation.
//   |Re z| < 6:  2/√π e^(-z²) Σ_n 2ⁿ z^(2n+1) / (2n+1)!!                        (Abramowitz & Stegun 7.1.6)
//   otherwise:   ±(1 - e^(-z²)/√π · 1/(z + (1/2)/(z + 1/(z + (3/2)/(z + …))))   (Abramowitz & Stegun 7.1.14)
inline Complex error_function(Complex z) {
  if (z.real() < 0) return -error_function(-z);
  const Complex gauss = std::exp(-z * z) / std::sqrt(std::numbers::pi);
  if (z.real() < 6) {
    Complex term = z, sum = z;
    for (int n = 1; std::abs(term.real()) > 1e-18 * std::abs(sum.real()) && n < 300; ++n) {
      term *= 2.0 * z * z / (2.0 * n + 1.0);
      sum += term;
    }
    return 2.0 * gauss * sum;
  }
  Complex fraction = z;
  for (int k = 60; k >= 1; --k) fraction = z + 0.5 * k / fraction;
  return 1.0 - gauss / fraction;
}
inline double error_function(double x) { return std::erf(x); }
inline float error_function(float x) { return std::erf(x); }

}  // namespace sffn::ref
