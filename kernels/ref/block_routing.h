// The choices of tokens and their order by blocks, as the sentences of op_list.inc say them.
#pragma once
#include "kernels/ref/scalar.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

namespace sffn::ref {

// blocks [N,b]: per row the b largest of scores + bias (null: 0), by real parts, ascending. Returns how many sums are
// NaN.
template <class T>
int64_t top_b(int32_t* blocks, const T* scores, const T* bias, int64_t N, int64_t B, int64_t b) {
  int64_t nans = 0;
  std::vector<Real<T>> sums(B);
  std::vector<int32_t> ranked(B);
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t i = 0; i < B; ++i) {
      sums[i] = real(bias ? scores[n * B + i] + bias[i] : scores[n * B + i]);
      if (sums[i] != sums[i]) ++nans;
    }
    std::iota(ranked.begin(), ranked.end(), 0);
    std::stable_sort(ranked.begin(), ranked.end(), [&](int32_t i, int32_t j) {
      const bool i_is_nan = sums[i] != sums[i], j_is_nan = sums[j] != sums[j];
      return i_is_nan || j_is_nan ? i_is_nan > j_is_nan : sums[i] > sums[j];
    });
    std::copy_n(ranked.begin(), b, blocks + n * b);
    std::sort(blocks + n * b, blocks + (n + 1) * b);
  }
  return nans;
}

// counts [S,B] of blocks [N,b], S groups of N/S tokens.
inline void count_blocks(int32_t* counts, const int32_t* blocks, int64_t S, int64_t B, int64_t N, int64_t b) {
  std::fill_n(counts, S * B, 0);
  for (int64_t c = 0; c < N * b; ++c) {
    if (blocks[c] >= 0) ++counts[c / b / (N / S) * B + blocks[c]];
  }
}

inline void exclusive_scan(int32_t* offsets, const int32_t* counts, int64_t n) {
  offsets[0] = 0;
  for (int64_t i = 0; i < n; ++i) offsets[i + 1] = offsets[i] + counts[i];
}

// order, inverse [P] of the choices blocks [N,b]: sorted by (chunk, block, choice); -1 has no row.
inline void sort_by_block(int32_t* order, int32_t* inverse, const int32_t* blocks, int64_t chunk, int64_t N,
                          int64_t b) {
  std::vector<int32_t> kept;
  for (int64_t c = 0; c < N * b; ++c) {
    if (blocks[c] >= 0) kept.push_back(static_cast<int32_t>(c));
  }
  std::stable_sort(kept.begin(), kept.end(), [&](int32_t c, int32_t d) {
    const int64_t chunk_c = c / b / chunk, chunk_d = d / b / chunk;
    return chunk_c != chunk_d ? chunk_c < chunk_d : blocks[c] < blocks[d];
  });
  std::fill_n(order, N * b, -1);
  std::fill_n(inverse, N * b, -1);
  for (size_t row = 0; row < kept.size(); ++row) {
    order[row] = kept[row];
    inverse[kept[row]] = static_cast<int32_t>(row);
  }
}

// Drops, in blocks [N,b], the choices of a block beyond the first `capacity` of its group of N/S tokens; taken [S,B]
// came before (null: none). Returns how many.
inline int64_t limit_capacity(int32_t* blocks, const int32_t* taken, int64_t S, int64_t B, int64_t N, int64_t b,
                              int64_t capacity) {
  int64_t dropped = 0;
  std::vector<int64_t> seen(S * B);
  if (taken) seen.assign(taken, taken + S * B);
  for (int64_t c = 0; c < N * b; ++c) {
    if (blocks[c] < 0 || seen[c / b / (N / S) * B + blocks[c]]++ < capacity) continue;
    blocks[c] = -1;
    ++dropped;
  }
  return dropped;
}

}  // namespace sffn::ref
