// loss += weight·(1/n) Σ x²; nothing for n = 0.
#pragma once
#include "kernels/ref/scalar.h"

namespace sffn::ref {

template <class T>
void mean_square(T* loss, const T* x, int64_t n, double weight) {
  if (n == 0) return;
  T total = 0;
  for (int64_t i = 0; i < n; ++i) total += square(x[i]);
  *loss += constant<T>(weight / static_cast<double>(n)) * total;
}

}  // namespace sffn::ref
