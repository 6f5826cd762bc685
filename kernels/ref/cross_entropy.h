// Softmax cross-entropy over the first `vocab` of padded_vocab logits of a row, in place: the judge of the fast
// kernels. Templates on the scalar type (double, std::complex<double>, float). Throws nothing: the caller checks the
// targets.
#pragma once
#include "kernels/ref/scalar.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace sffn::ref {

// One row; target -1 is scored 0 and has no gradient.
template <class T>
T cross_entropy_row(T* logits, int32_t target, int64_t vocab, int64_t padded_vocab, double gradient_scale,
                    bool write_gradient) {
  if (target < 0) {
    if (write_gradient) std::fill(logits, logits + padded_vocab, T(0));
    return T(0);
  }
  Real<T> largest = real(logits[0]);  // shifts every logit: no part of the derivative
  for (int64_t v = 0; v < vocab; ++v) largest = std::max(largest, real(logits[v]));
  T sum = 0;
  for (int64_t v = 0; v < vocab; ++v) sum += std::exp(logits[v] - largest);
  const T loss = std::log(sum) + largest - logits[target];
  if (write_gradient) {
    for (int64_t v = 0; v < vocab; ++v) {
      const T softmax = std::exp(logits[v] - largest) / sum;
      logits[v] = (softmax - T(v == target ? 1 : 0)) * constant<T>(gradient_scale);
    }
    std::fill(logits + vocab, logits + padded_vocab, T(0));
  }
  return loss;
}

template <class T>
void cross_entropy(T* losses, T* logits, const int32_t* targets, int64_t rows, int64_t vocab, int64_t padded_vocab,
                   double gradient_scale, bool write_gradient) {
  for (int64_t n = 0; n < rows; ++n) {
    losses[n] =
        cross_entropy_row(logits + n * padded_vocab, targets[n], vocab, padded_vocab, gradient_scale, write_gradient);
  }
}

}  // namespace sffn::ref
