// Ids that stand in tensors are checked on every call: a contract looks at shapes only.
#pragma once
#include "core/error.h"

#include <cstdint>

namespace sffn::cpu {

// Every one of `count` ids, `per_token` in a row, is a block or -1 (a dropped choice).
inline void check_block_ids(const char* op, const int32_t* blocks, int64_t count, int64_t per_token,
                            int64_t block_count) {
  for (int64_t c = 0; c < count; ++c) {
    if (blocks[c] >= -1 && blocks[c] < block_count) continue;
    throw RunError(op, cat("token ", c / per_token, " has chosen block ", blocks[c],
                           "; it must be -1 (dropped) or in [0, ", block_count, ")"));
  }
}

}  // namespace sffn::cpu
