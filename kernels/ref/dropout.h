// x[i] = 0 where random_uniform(key, first_index + i) < p, else x[i]/(1 - p). Srivastava et al., JMLR 15, 2014,
// scaled in training. Linear in x, so the backward pass is the same op on the gradient.
#pragma once
#include "kernels/ref/scalar.h"
#include "kernels/types.h"

#include <cstdint>

namespace sffn::ref {

template <class T>
void dropout(T* x, int64_t n, const Dropout& d) {
  const T scale = constant<T>(1 / (1 - d.probability));
  for (int64_t i = 0; i < n; ++i) {
    const bool dropped = random_uniform(d.draws.key, static_cast<uint64_t>(d.draws.first_index + i)) < d.probability;
    x[i] = dropped ? T(0) : x[i] * scale;
  }
}

}  // namespace sffn::ref
