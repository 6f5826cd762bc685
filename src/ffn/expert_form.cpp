#include "ffn/expert_form.h"

#include <limits>
#include <span>

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
constexpr ExpertCost kGpuCosts[] = {
#include "ffn/expert_costs_gpu.inc"
};

// Between two block sizes of the table the ratio is that of the smaller one.
double grouped_over_masked(std::span<const ExpertCost> costs, DType dtype, int64_t block_size) {
  double ratio = 1;
  for (const ExpertCost& cost : costs) {
    if (cost.dtype == dtype && cost.block_size <= block_size) ratio = cost.ratio;
  }
  return ratio;
}

ExpertForm cheaper_form(const BlockShape& shape, bool on_gpu, DType dtype) {
  const double ratio = on_gpu ? grouped_over_masked(kGpuCosts, dtype, shape.block_size)
                              : grouped_over_masked(kCosts, dtype, shape.block_size);
  const double grouped = static_cast<double>(shape.active_cells()) * ratio;
  return grouped < static_cast<double>(shape.cells) ? ExpertForm::kGrouped : ExpertForm::kMasked;
}

// All tokens, but for small blocks on a CPU, where the product is loops over rows, not GEMMs: so few that their rows
// stay in a core's cache while the tables stream by.
int64_t routing_chunk(const BlockShape& shape, bool on_gpu) {
  constexpr int64_t kFusedBlockSize = 8, kTokens = 256;
  return !on_gpu && shape.block_size <= kFusedBlockSize ? kTokens : std::numeric_limits<int64_t>::max();
}

}  // namespace

ExpertPlan plan_experts(const BlockShape& shape, std::optional<ExpertForm> form, bool on_gpu, DType dtype) {
  return {form ? *form : cheaper_form(shape, on_gpu, dtype), routing_chunk(shape, on_gpu)};
}

}  // namespace sffn
