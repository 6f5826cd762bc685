// Between one number per choice and one number per block of a balance group. Choices of -1 take no part.
#pragma once
#include <algorithm>
#include <cstdint>

namespace sffn::ref {

// sums[s,i] = Σ of weights[n,j] over the tokens n of group s and their choices j of block i
template <class T>
void block_weight_sums(T* sums, const T* weights, const int32_t* blocks, int64_t tokens, int64_t per_token,
                       int64_t groups, int64_t block_count) {
  std::fill(sums, sums + groups * block_count, T(0));
  for (int64_t c = 0; c < tokens * per_token; ++c) {
    const int64_t group = c / per_token / (tokens / groups);
    if (blocks[c] >= 0) sums[group * block_count + blocks[c]] += weights[c];
  }
}

// out[n,j] += per_block[s, blocks[n,j]]: the gradient of block_weight_sums by its weights
template <class T>
void add_block_values(T* out, const T* per_block, const int32_t* blocks, int64_t tokens, int64_t per_token,
                      int64_t groups, int64_t block_count) {
  for (int64_t c = 0; c < tokens * per_token; ++c) {
    const int64_t group = c / per_token / (tokens / groups);
    if (blocks[c] >= 0) out[c] += per_block[group * block_count + blocks[c]];
  }
}

}  // namespace sffn::ref
