// How far the fp32 activations may be from f and f' in double.
#pragma once
#include "kernels/types.h"
#include "support/tolerances.h"

#include <cmath>
#include <numbers>

namespace sffn::test {

// Bounds of f and f' in double: f = z·c(z) with c a distribution function computed through e^argument. A rounded
// argument costs |argument|·u relative; the vector functions up to 16 u; a flushed exponential |z|·2^-126.
struct ActivationBound {
  double value, slope;
};
inline ActivationBound activation_bound(double z, Activation f) {
  const double u = tolerances::unit_roundoff(DType::kF32), x = std::abs(z), flush = (1 + x * x * x) * 0x1p-125;
  const auto logistic = [&](double argument, double derivative) {
    const double s = 1 / (1 + std::exp(-argument)), rest = 1 / (1 + std::exp(argument));
    const double relative = (20 + 4 * std::abs(argument)) * u;
    return ActivationBound{relative * x * s + flush, relative * (s + x * s * rest * derivative) + flush};
  };
  switch (f) {
    case Activation::kRelu:
      return {0, 0};
    case Activation::kSilu:
      return logistic(z, 1);
    case Activation::kGelu: {
      const double slope = 2 * std::sqrt(2 / std::numbers::pi);
      return logistic(slope * (z + 0.044715 * z * z * z), slope * (1 + 3 * 0.044715 * z * z));
    }
    case Activation::kGeluErf: {
      const double cdf = 0.5 * std::erfc(-z / std::numbers::sqrt2);
      const double density = std::exp(-z * z / 2) / std::sqrt(2 * std::numbers::pi);
      return {20 * u * x * cdf + flush, 20 * u * (cdf + x * density) + flush};
    }
  }
  return {0, 0};
}

}  // namespace sffn::test
