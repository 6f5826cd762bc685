// out = Σ x.   partial[i] = Σ of x² over chunk i.
#pragma once
#include "kernels/ref/scalar.h"

#include <algorithm>
#include <cstdint>

namespace sffn::ref {

template <class T>
void sum(T* out, const T* x, int64_t n) {
  out[0] = T(0);
  for (int64_t i = 0; i < n; ++i) out[0] += x[i];
}

template <class T>
void sum_of_squares(T* partial, const T* x, int64_t n, int64_t chunk) {
  for (int64_t first = 0; first < n; first += chunk) {
    T total = T(0);
    for (int64_t i = first; i < std::min(n, first + chunk); ++i) total += square(x[i]);
    partial[first / chunk] = total;
  }
}

}  // namespace sffn::ref
