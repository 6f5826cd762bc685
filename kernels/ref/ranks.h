// Blocks and tokens over expert ranks, the definitions.
#pragma once
#include <cstdint>

namespace sffn::ref {

// out[c] = blocks[c] - first where that lies in [0, count), else -1
inline void localise_blocks(int32_t* out, const int32_t* blocks, int64_t choices, int64_t first, int64_t count) {
  for (int64_t c = 0; c < choices; ++c) {
    const int64_t local = blocks[c] - first;
    out[c] = static_cast<int32_t>(local >= 0 && local < count ? local : -1);
  }
}

// ranks[n,r] = r where one of blocks[n,:] lies in [r·C, (r+1)·C), else -1
inline void ranks_of_blocks(int32_t* ranks, const int32_t* blocks, int64_t N, int64_t R, int64_t b, int64_t C) {
  for (int64_t e = 0; e < N * R; ++e) ranks[e] = -1;
  for (int64_t c = 0; c < N * b; ++c) {
    const int64_t r = blocks[c] / C;
    if (blocks[c] >= 0 && r < R) ranks[c / b * R + r] = static_cast<int32_t>(r);
  }
}

// y[n,j] = Σ_r rows[inverse[n,r], j] + bias[j], r ascending; inverse absent: row r·N + n
template <class T, class Acc>
void combine_tokens(T* y, const T* rows, const int32_t* inverse, const Acc* bias, int64_t N, int64_t R, int64_t D) {
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t j = 0; j < D; ++j) {
      Acc sum{};
      for (int64_t r = 0; r < R; ++r) {
        const int64_t row = inverse == nullptr ? r * N + n : inverse[n * R + r];
        if (row >= 0) sum += static_cast<Acc>(rows[row * D + j]);
      }
      y[n * D + j] = static_cast<T>(bias == nullptr ? sum : sum + bias[j]);
    }
  }
}

}  // namespace sffn::ref
