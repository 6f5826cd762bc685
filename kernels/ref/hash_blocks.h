// blocks[n] = the first b places of a permutation of the B blocks that belongs to the token's id, ascending.
#pragma once
#include "core/random.h"

#include <algorithm>

namespace sffn::ref {

inline void hash_blocks_row(int32_t* blocks, int32_t id, uint64_t seed, int64_t layer, int64_t block_count,
                            int64_t per_token) {
  const Permutation permutation(random_key(seed, RandomSite::kHashBlocks, layer, id),
                                static_cast<uint64_t>(block_count));
  for (int64_t i = 0; i < per_token; ++i) blocks[i] = static_cast<int32_t>(permutation(static_cast<uint64_t>(i)));
  std::sort(blocks, blocks + per_token);
}

}  // namespace sffn::ref
