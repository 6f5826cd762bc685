// scores[i] = value where random_uniform(key, first_index + i) < p. Expert dropout of Csordás et al., arXiv 2310.10837,
// section 5: no rescaling.
#pragma once
#include "kernels/ref/scalar.h"
#include "kernels/types.h"

namespace sffn::ref {

template <class T>
void mask_scores(T* scores, int64_t n, double value, const Dropout& d) {
  for (int64_t i = 0; i < n; ++i) {
    if (random_uniform(d.key, static_cast<uint64_t>(d.first_index + i)) < d.probability) scores[i] = constant<T>(value);
  }
}

}  // namespace sffn::ref
