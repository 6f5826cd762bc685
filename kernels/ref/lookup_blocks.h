// blocks[n] = table[ids[n]]
#pragma once
#include <cstdint>

namespace sffn::ref {

inline void lookup_blocks(int32_t* blocks, const int32_t* ids, const int32_t* table, int64_t count) {
  for (int64_t n = 0; n < count; ++n) blocks[n] = table[ids[n]];
}

}  // namespace sffn::ref
