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
// 1/(1 + e^-x), by e^x on the left so that nothing overflows. 1 - σ(x) is σ(-x).
template <class T>
T sigmoid(T x) {
  if (real(x) < 0) return std::exp(x) / (T(1) + std::exp(x));
  return T(1) / (T(1) + std::exp(-x));
}

// φ(x) = e^(-x²/2) / √(2π)
template <class T>
T normal_density(T x) {
  return std::exp(constant<T>(-0.5) * x * x) * constant<T>(1 / std::sqrt(2 * std::numbers::pi));
}

// Φ(x), the distribution function of the standard normal; with its relative accuracy in the lower tail.
inline double normal_cdf(double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }
inline float normal_cdf(float x) { return static_cast<float>(normal_cdf(static_cast<double>(x))); }
// Near the real axis, a = -x:  Re a < 3: Φ(-a) = 1/2 - φ(a) Σ_n a^(2n+1) / (1·3·5···(2n+1))
//                         otherwise: Φ(-a) = φ(a) / (a + 1/(a + 2/(a + 3/(a + …))))
// (Abramowitz & Stegun 26.2.11 and 26.2.14).
inline Complex normal_cdf(Complex x) {
  if (x.real() > 0) return 1.0 - normal_cdf(-x);
  const Complex a = -x;
  if (a.real() < 3) {
    Complex term = a, sum = a;
    for (int n = 1; n < 100; ++n) {
      term *= a * a / (2.0 * n + 1.0);
      sum += term;
    }
    return 0.5 - normal_density(a) * sum;
  }
  Complex fraction = a;
  for (int k = 150; k >= 1; --k) fraction = a + static_cast<double>(k) / fraction;
  return normal_density(a) / fraction;
}

}  // namespace sffn::ref
