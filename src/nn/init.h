// Initial values of matrices (methods.md section 6). gpt: normal of 0.02, branch outputs scaled by 1/√(2L); xl:
// truncated normal of √(2 / (L·fan_in)).
#pragma once
#include "config/config.h"
#include "core/params.h"

#include <cmath>
#include <cstdint>
#include <span>

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

// Of routers. xl: rows of one norm, so that no block starts ahead (arXiv 2310.10837, section 5).
inline Init router_init(const ModelConfig& model) {
  Init init = matrix_init(model, model.d_model);
  init.equal_rows = model.init == InitScheme::kXl;
  return init;
}

// Scales the rows of a matrix to one norm, and the matrix back to its standard deviation about its mean. A row of zeros
// stays.
void equalise_row_norms(std::span<double> matrix, int64_t columns);

}  // namespace sffn
