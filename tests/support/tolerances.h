// Error bounds of a result computed in `dtype` against the same inputs computed in double. Derived, not tuned: u is the
// unit roundoff, and a sum of n products in fp32 is off by at most n·u·Σ|a·b| (Higham, Accuracy and Stability of
// Numerical Algorithms, 2nd ed., section 3.1), whatever its order; random signs give about √n·u, so √n times a margin
// is what honest code stays under, and a lost term does not.
#pragma once
#include "core/dtype.h"
#include "core/error.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace sffn::tolerances {

// Half the distance between 1 and the next number.
constexpr double unit_roundoff(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return 0x1p-24;
    case DType::kBF16:
      return 0x1p-8;
    default:
      return 0x1p-53;
  }
}

// |computed - exact| for a sum of `terms` products whose absolute values add up to `magnitude`, summed in the
// accumulate type of `output`, then rounded once to `output`.
inline double sum_of_products(int64_t terms, double magnitude, double exact, DType output) {
  const double u_sum = unit_roundoff(accumulate_type(output));
  const double growth = 8 * std::sqrt(static_cast<double>(std::max<int64_t>(terms, 1)));
  return growth * u_sum * magnitude + unit_roundoff(output) * std::abs(exact) + 0x1p-126;
}

// |computed - exact| for a chain of `operations` elementwise fp32 operations on values up to `magnitude`, then rounded
// once to `output`.
inline double elementwise(int operations, double magnitude, double exact, DType output) {
  return operations * unit_roundoff(accumulate_type(output)) * magnitude + unit_roundoff(output) * std::abs(exact) +
         0x1p-126;
}

}  // namespace sffn::tolerances
