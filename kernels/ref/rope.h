// Rotary positions on query and key heads, in place: pairs (i, i + d_h/2), angle position·theta^(-2i/d_h).
// Su et al., arXiv 2104.09864, eq. 34, with the halves of a head in place of neighbouring elements.
#pragma once
#include "kernels/ref/scalar.h"
#include "kernels/types.h"

#include <cmath>
#include <cstdint>

namespace sffn::ref {

// direction +1: (a, b) = (a cos θ - b sin θ, b cos θ + a sin θ), the forward pass. direction -1 rotates back, which is
// its gradient: the rotation is orthogonal, so (da, db) are turned by the transpose.
template <class T>
void rope(T* qkv, const int32_t* positions, const AttentionShape& s, double theta, int direction) {
  const int64_t half = s.head_dim / 2;
  for (int64_t n = 0; n < s.tokens(); ++n) {
    for (int64_t head = 0; head < s.heads + s.kv_heads; ++head) {
      T* x = qkv + n * s.qkv_width() + head * s.head_dim;
      for (int64_t i = 0; i < half; ++i) {
        const double frequency = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(s.head_dim));
        const double angle = direction * positions[n] * frequency;
        const T cosine = constant<T>(std::cos(angle)), sine = constant<T>(std::sin(angle));
        const T a = x[i], b = x[i + half];
        x[i] = a * cosine - b * sine;
        x[i + half] = b * cosine + a * sine;
      }
    }
  }
}

}  // namespace sffn::ref
