#include "ffn/expert_form.h"

#include <algorithm>
#include <cmath>

namespace sffn {
namespace {

// Time of one multiply-add of the grouped form over that of the masked form, forward and backward, for blocks of G
// cells.
struct ExpertCost {
  DType dtype;
  int64_t block_size;
  double ratio;
};
constexpr ExpertCost kCosts[] = {
#include "ffn/expert_costs.inc"
};

// Between two measured block sizes the ratio is that of the smaller one.
double grouped_over_masked(DType dtype, int64_t block_size) {
  double ratio = 1;
  for (const ExpertCost& cost : kCosts) {
    if (cost.dtype == dtype && cost.block_size <= block_size) ratio = cost.ratio;
  }
  return ratio;
}

}  // namespace

ExpertForm cheaper_form(const BlockShape& shape, int64_t, int64_t, DType dtype) {
  const double masked = static_cast<double>(shape.cells);
  const double grouped = static_cast<double>(shape.active_cells()) * grouped_over_masked(dtype, shape.block_size);
  return grouped < masked ? ExpertForm::kGrouped : ExpertForm::kMasked;
}

int64_t routing_chunk(const BlockShape& shape, int64_t tokens, int64_t) {
  constexpr int64_t kFusedBlockSize = 8;  // up to here the block product is loops over rows, not GEMMs
  constexpr int64_t kTokens = 256;
  return std::max<int64_t>(1, shape.block_size <= kFusedBlockSize ? std::min(tokens, kTokens) : tokens);
}

}  // namespace sffn
