// loss = Σ nll/tokens + Σ_l extra_l/M;  norm = √Σ grad²;  gradient_scale = clip/norm where 0 < clip < norm, else 1
#pragma once
#include "kernels/types.h"

#include <cmath>

namespace sffn::ref {

inline void update_numbers(double* numbers, const double* sums, int64_t layers, double squares, double tokens,
                           double leaves, double clip) {
  double loss = sums[0] / tokens;
  for (int64_t l = 1; l <= layers; ++l) loss += sums[l] / leaves;
  const double norm = std::sqrt(squares);
  numbers[update::kLoss] = loss;
  numbers[update::kNorm] = norm;
  numbers[update::kApplied] = std::isfinite(loss) && std::isfinite(norm) ? 1 : 0;
  numbers[update::kGradientScale] = clip > 0 && norm > clip ? clip / norm : 1;
}

}  // namespace sffn::ref
