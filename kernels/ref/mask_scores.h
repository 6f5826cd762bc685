// scores[i] = value where random_uniform(key, first_index + i) < p. Expert dropout of Csordás et al., arXiv 2310.10837,
// section 5: no rescaling.
#pragma once
#include "kernels/ref/scalar.h"
#include "kernels/types.h"

namespace sffn::ref {

template <class T>
void mask_scores(T* scores, int64_t n, double value, const Dropout& d) {
  for (int64_t i = 0; i < n; ++i) {
    if (random_uniform(d.draws.key, static_cast<uint64_t>(d.draws.first_index + i)) < d.probability)
      scores[i] = constant<T>(value);
  }
}

// out[c] = -1 where that mask falls on the score of blocks[c], else blocks[c]; b choices a token.
inline void drop_choices(int32_t* out, const int32_t* blocks, int64_t choices, int64_t b, int64_t B, const Dropout& d) {
  for (int64_t c = 0; c < choices; ++c) {
    const int64_t score = d.draws.first_index + c / b * B + blocks[c];
    const bool dropped = blocks[c] < 0 || random_uniform(d.draws.key, static_cast<uint64_t>(score)) < d.probability;
    out[c] = dropped ? -1 : blocks[c];
  }
}

}  // namespace sffn::ref
