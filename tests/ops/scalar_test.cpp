#include "kernels/ref/scalar.h"

#include "support/catch.h"
#include "support/complex_step.h"

#include <cmath>

using namespace sffn;
using sffn::test::kComplexStep;

// Kills: a wrong series or fraction, the border between them, the reflection at 0.
TEST_CASE("the complex normal distribution has the real one's values and its density as derivative", "[ops][ref]") {
  for (int i = -1300; i <= 1300; ++i) {
    const double x = 0.01 * i;
    const ref::Complex y = ref::normal_cdf(ref::Complex(x, kComplexStep));
    CHECK(std::abs(y.real() - ref::normal_cdf(x)) <= 1e-12 * ref::normal_cdf(x));
    CHECK(std::abs(y.imag() / kComplexStep - ref::normal_density(x)) <= 1e-12 * std::max(ref::normal_density(x), 1e-3));
  }
}

// Kills: |z| as a modulus, comparisons by modulus, overflow on either side of the logistic function.
TEST_CASE("choices act on real parts and the logistic function saturates without overflow", "[ops][ref]") {
  using ref::Complex;
  CHECK(ref::absolute(Complex(-2, 1e-50)) == Complex(2, -1e-50));
  CHECK(ref::maximum(Complex(-3, 1e-50), Complex(1, 0)) == Complex(1, 0));
  CHECK(ref::sigmoid(Complex(-800, kComplexStep)) == Complex(0, 0));
  CHECK(ref::sigmoid(Complex(800, kComplexStep)).real() == 1);
  CHECK(ref::sigmoid(1.0) + ref::sigmoid(-1.0) == Approx(1.0));
}
