// Gradients by complex step: Im f(x + ih) / h is f'(x) to rounding, without the cancellation of differences
// (Squire & Trapp, SIAM Review 40, 1998). The function must take its choices by real parts (kernels/ref/scalar.h).
#pragma once
#include "core/random.h"
#include "support/catch.h"

#include <cmath>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace sffn::test {

using Complex = std::complex<double>;
inline constexpr double kComplexStep = 1e-50;

inline std::vector<Complex> to_complex(const std::vector<double>& x) { return {x.begin(), x.end()}; }

// Fixed normal values, different for every `stream`.
inline std::vector<double> random_values(size_t count, uint64_t stream, double std = 1) {
  std::vector<double> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = std * random_normal({7, stream}, i);
  return values;
}

// g[j] = d(Σ_i dy[i]·y[i])/dx[j], where y = forward(x) maps a vector of Complex to a vector of Complex.
template <class Forward>
std::vector<double> complex_step_gradient(const std::vector<double>& x, const std::vector<double>& dy,
                                          Forward&& forward) {
  std::vector<Complex> at = to_complex(x);
  std::vector<double> gradient(x.size());
  for (size_t j = 0; j < x.size(); ++j) {
    at[j] += Complex(0, kComplexStep);
    const std::vector<Complex> y = forward(static_cast<const std::vector<Complex>&>(at));
    REQUIRE(y.size() == dy.size());
    for (size_t i = 0; i < y.size(); ++i) gradient[j] += dy[i] * (y[i].imag() / kComplexStep);
    at[j] = x[j];
  }
  return gradient;
}

// Every |actual - expected| <= tolerance·(1 + |expected|); says which element is the worst.
inline void check_close(const std::vector<double>& actual, const std::vector<double>& expected, double tolerance) {
  REQUIRE(actual.size() == expected.size());
  size_t worst = 0;
  double worst_error = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double error = std::abs(actual[i] - expected[i]) / (1 + std::abs(expected[i]));
    if (!(error <= worst_error)) worst = i, worst_error = error;  // NaN counts as the worst
    if (std::isnan(error)) break;
  }
  if (actual.empty()) return;
  INFO("element " << worst << " is " << actual[worst] << "; expected " << expected[worst]);
  CHECK(worst_error <= tolerance);
}

}  // namespace sffn::test
