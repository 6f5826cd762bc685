// x[i] *= 1 + eps·(2u - 1), u = random_uniform(key, first_index + i): Fedus et al., arXiv 2101.03961, section 2.4
// (input jitter). Linear in x, so the backward pass is the same op on the gradient.
#pragma once
#include "kernels/ref/scalar.h"
#include "kernels/types.h"

namespace sffn::ref {

template <class T>
void jitter(T* x, int64_t n, double eps, const Draws& draws) {
  for (int64_t i = 0; i < n; ++i) {
    const double u = static_cast<double>(random_uniform(draws.key, static_cast<uint64_t>(draws.first_index + i)));
    x[i] *= constant<T>(1 + eps * (2 * u - 1));
  }
}

}  // namespace sffn::ref
