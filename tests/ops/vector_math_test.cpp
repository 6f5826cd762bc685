#include "kernels/cpu/vector_math.h"

#include "support/catch.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

using namespace sffn::cpu;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// |value - exact| in units of the last place of a float near `exact`.
double ulps(float value, double exact) {
  const auto nearest = static_cast<float>(std::abs(exact));
  const double ulp = static_cast<double>(std::nextafter(nearest, kInfinity)) - nearest;
  return std::abs(value - exact) / ulp;
}

// The largest error(x) over evenly spaced x of [low, high].
template <class F>
double worst_over(float low, float high, int samples, F&& error) {
  double worst = 0;
  for (int i = 0; i <= samples; ++i) {
    const float x = low + (high - low) * (static_cast<float>(i) / static_cast<float>(samples));
    worst = std::max(worst, error(x));
  }
  return worst;
}

}  // namespace

// Kills: a wrong polynomial coefficient, and a range reduction by one float constant instead of two.
TEST_CASE("exp is within 1.2 ulp of the exact value over its whole range", "[vector_math][cpu]") {
  const auto error = [](float x) { return ulps(exp_f32(x), std::exp(static_cast<double>(x))); };
  CHECK(worst_over(-87.3f, 88.7f, 4'000'000, error) <= 1.2);
  CHECK(worst_over(-1e-3f, 1e-3f, 100'000, error) <= 1.2);
}

// Kills: clamping where the result should be 0, infinite or NaN.
TEST_CASE("exp is 0 far below, infinite far above, and keeps NaN", "[vector_math][cpu]") {
  CHECK(exp_f32(0.0f) == 1.0f);
  CHECK(exp_f32(-kInfinity) == 0.0f);
  CHECK(exp_f32(-88.0f) == 0.0f);
  CHECK(exp_f32(kInfinity) == kInfinity);
  CHECK(exp_f32(88.73f) == kInfinity);
  CHECK(std::isfinite(exp_f32(88.72f)));
  CHECK(std::isnan(exp_f32(std::numeric_limits<float>::quiet_NaN())));
}

// Kills: a tail computed as 1 - Φ, which keeps no digit below -5.
TEST_CASE("the normal distribution keeps its relative accuracy in the lower tail", "[vector_math][cpu]") {
  const auto cdf_error = [](float x) {
    float cdf, density;
    normal_f32(x, cdf, density);
    return ulps(cdf, 0.5 * std::erfc(-static_cast<double>(x) / std::numbers::sqrt2));
  };
  const auto density_error = [](float x) {
    float cdf, density;
    normal_f32(x, cdf, density);
    return ulps(density, std::exp(-0.5 * x * static_cast<double>(x)) / std::sqrt(2 * std::numbers::pi));
  };
  CHECK(worst_over(-12.5f, 12.5f, 1'000'000, cdf_error) <= 8.0);
  CHECK(worst_over(-12.5f, 12.5f, 1'000'000, density_error) <= 4.0);
}

// Kills: a quadrant taken wrongly for negative or large angles, reduction in float.
TEST_CASE("sine and cosine hold their absolute accuracy at the angles of long sequences", "[vector_math][cpu]") {
  const auto error = [](double angle) {
    float sine, cosine;
    sin_cos_f32(angle, sine, cosine);
    return std::max(std::abs(sine - std::sin(angle)), std::abs(cosine - std::cos(angle)));
  };
  double worst = 0;
  for (int i = -200'000; i <= 200'000; ++i) {
    worst = std::max({worst, error(i * 0.001), error(i * 1.0), error(i * 4999.7)});
  }
  CHECK(worst <= 1e-7);
}

// Kills: a result that depends on the place in a vector (vector body against scalar remainder of a loop).
TEST_CASE("a value does not depend on the length of the loop around it", "[vector_math][cpu]") {
  std::vector<float> x(127), full(127), one(127);
  for (size_t i = 0; i < x.size(); ++i) x[i] = -20.0f + 0.31f * static_cast<float>(i);
#pragma omp simd
  for (size_t i = 0; i < x.size(); ++i) full[i] = exp_f32(x[i]);
  for (size_t i = 0; i < x.size(); ++i) {
    const volatile float alone = x[i];
    one[i] = exp_f32(alone);
  }
  CHECK(full == one);
}
