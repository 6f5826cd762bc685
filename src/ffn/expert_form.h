// How a layer computes its block product: from committed costs, never timed at run time, so that ranks, runs and
// resumes agree.
#pragma once
#include "core/dtype.h"
#include "ffn/block_store.h"

#include <cstdint>
#include <optional>

namespace sffn {

enum class ExpertForm : uint8_t { kMasked, kGrouped };

struct ExpertPlan {
  ExpertForm form = ExpertForm::kGrouped;
  int64_t chunk = 1;  // tokens that are sorted together at most: BlockRouting::chunk
};

// With the form that is given, or else the cheaper one by the committed tables: expert_costs.inc of the CPU (`sffn
// bench ops --write-costs` makes it), expert_costs_gpu.inc of GPUs.
ExpertPlan plan_experts(const BlockShape& shape, std::optional<ExpertForm> form, bool on_gpu, DType dtype);

}  // namespace sffn
