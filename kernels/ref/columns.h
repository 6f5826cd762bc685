// Columns in P parts, the definitions.
#pragma once
#include "kernels/types.h"

#include <cstdint>

namespace sffn::ref {

// parts[p,n,j] = x[n, p·W + j]
template <class T>
void split_columns(T* parts, const T* x, int64_t P, int64_t N, int64_t W) {
  for (int64_t e = 0; e < P * N * W; ++e) parts[e] = x[e / W % N * P * W + e / (N * W) * W + e % W];
}

// x[n, p·W + j] = parts[p,n,j] (+ x)
template <class T>
void join_columns(T* x, const T* parts, Accumulate accumulate, int64_t P, int64_t N, int64_t W) {
  for (int64_t e = 0; e < P * N * W; ++e) {
    T& to = x[e / W % N * P * W + e / (N * W) * W + e % W];
    to = accumulate == Accumulate::kYes ? to + parts[e] : parts[e];
  }
}

}  // namespace sffn::ref
