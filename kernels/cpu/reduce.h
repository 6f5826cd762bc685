// Sums whose order depends on the count alone: not on threads, alignment or the width of vectors.
#pragma once
#include <cstdint>

namespace sffn::cpu {

inline constexpr int kSumLanes = 32;

// The lanes folded pairwise into the first; every width is a constant, so that each step is one vector addition.
template <int kWidth, class Acc>
void fold_lanes(Acc* lanes) {
#pragma omp simd
  for (int l = 0; l < kWidth; ++l) lanes[l] += lanes[l + kWidth];
  if constexpr (kWidth > 1) fold_lanes<kWidth / 2>(lanes);
}

// Σ_{i < n} term(i): lane l sums i = l, l + 32, …
template <class Acc, class Term>
Acc lane_sum(int64_t n, Term&& term) {
  Acc lanes[kSumLanes] = {};
  int64_t i = 0;
  for (; i + kSumLanes <= n; i += kSumLanes) {
#pragma omp simd
    for (int l = 0; l < kSumLanes; ++l) lanes[l] += term(i + l);
  }
  for (int l = 0; i + l < n; ++l) lanes[l] += term(i + l);
  fold_lanes<kSumLanes / 2>(lanes);
  return lanes[0];
}

}  // namespace sffn::cpu
