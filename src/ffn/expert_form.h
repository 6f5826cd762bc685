// Which form of the block product a layer takes: from measured costs, never timed at run time, so that ranks, runs and
// resumes agree.
#pragma once
#include "core/dtype.h"
#include "ffn/block_store.h"

#include <cstdint>

namespace sffn {

enum class ExpertForm : uint8_t { kMasked, kGrouped };

// The cheaper form for N tokens of width D by the committed table (expert_costs.inc; `sffn bench ops --write-costs`
// makes it).
ExpertForm cheaper_form(const BlockShape& shape, int64_t tokens, int64_t d, DType dtype);

// Tokens of one chunk of the sort (BlockRouting::chunk): all of them where blocks are large enough for a GEMM; for
// small blocks so few that their rows stay in a core's cache while the tables stream by.
int64_t routing_chunk(const BlockShape& shape, int64_t tokens, int64_t d);

}  // namespace sffn
