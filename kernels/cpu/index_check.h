// Indices that stand in tensors are checked on every call: a contract looks at shapes only.
#pragma once
#include "core/tensor.h"

#include <cstdint>

namespace sffn::cpu {

// Every element of `indices` (i32) is in [least, end), or RunError "OP: NAME[2, 1] is 7; expected 0 to 6".
void check_indices(const char* op, const char* name, const Tensor& indices, int64_t least, int64_t end);

// Every element is a block or -1, a dropped choice.
inline void check_blocks(const char* op, const Tensor& blocks, int64_t block_count) {
  check_indices(op, "blocks", blocks, -1, block_count);
}

}  // namespace sffn::cpu
