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

// y[n,j] = Σ_r parts[r,n,j] + bias[j], r ascending
template <class T, class Acc>
void sum_parts(T* y, const T* parts, const Acc* bias, int64_t R, int64_t N, int64_t D) {
  for (int64_t e = 0; e < N * D; ++e) {
    Acc sum{};
    for (int64_t r = 0; r < R; ++r) sum += static_cast<Acc>(parts[r * N * D + e]);
    y[e] = static_cast<T>(bias == nullptr ? sum : sum + bias[e % D]);
  }
}

}  // namespace sffn::ref
