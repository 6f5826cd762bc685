// Initial values of matrices (methods.md section 6). gpt: normal of 0.02, branch outputs scaled by 1/√(2L); xl:
// truncated normal of √(2 / (L·fan_in)).
#pragma once
#include "config/config.h"
#include "core/params.h"

#include <cmath>
#include <cstdint>

namespace sffn {

inline constexpr double kGptStd = 0.02;

inline Init matrix_init(const ModelConfig& model, int64_t fan_in) {
  if (model.init == InitScheme::kGpt) return {Init::Kind::kNormal, kGptStd};
  return {Init::Kind::kTruncatedNormal, std::sqrt(2.0 / static_cast<double>(model.layers * fan_in))};
}

// Of matrices whose product is added to the residual stream: attention out and FFN values.
inline Init branch_output_init(const ModelConfig& model, int64_t fan_in) {
  Init init = matrix_init(model, fan_in);
  if (model.init == InitScheme::kGpt) init.value /= std::sqrt(2.0 * static_cast<double>(model.layers));
  return init;
}

}  // namespace sffn
