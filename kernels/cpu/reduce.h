// Sums whose order depends on the count alone: not on threads, alignment or the width of vectors.
#pragma once
#include <cstdint>

namespace sffn::cpu {

inline constexpr int kSumLanes = 32;

// The lanes folded pairwise.
template <class Acc>
Acc fold_lanes(Acc (&lanes)[kSumLanes]) {
  for (int width = kSumLanes / 2; width > 0; width /= 2) {
    for (int l = 0; l < width; ++l) lanes[l] += lanes[l + width];
  }
  return lanes[0];
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
  return fold_lanes(lanes);
}

}  // namespace sffn::cpu
