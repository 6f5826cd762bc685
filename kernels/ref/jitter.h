// x[i] *= 1 + eps·(2u - 1), u = random_uniform(key, first_index + i): Fedus et al., arXiv 2101.03961, section 2.4
// (input jitter). Linear in x, so the backward pass is the same op on the gradient.
#pragma once
#include "core/random.h"
#include "kernels/ref/scalar.h"

namespace sffn::ref {

template <class T>
void jitter(T* x, int64_t n, double eps, RandomKey key, int64_t first_index) {
  for (int64_t i = 0; i < n; ++i) {
    const double u = static_cast<double>(random_uniform(key, static_cast<uint64_t>(first_index + i)));
    x[i] *= constant<T>(1 + eps * (2 * u - 1));
  }
}

}  // namespace sffn::ref
