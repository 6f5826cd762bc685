// out[n] = tokens[ids[n]] + positions_table[positions[n]]
#pragma once
#include "kernels/ref/scalar.h"

#include <cstdint>

namespace sffn::ref {

// positions_table and positions may be null together.
template <class T>
void embedding_forward(T* out, const T* tokens, const int32_t* ids, const T* positions_table, const int32_t* positions,
                       int64_t N, int64_t D) {
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t d = 0; d < D; ++d) {
      out[n * D + d] = tokens[ids[n] * D + d];
      if (positions_table) out[n * D + d] += positions_table[positions[n] * D + d];
    }
  }
}

// Both tables are added to in order of n; dpositions may be null.
template <class T>
void embedding_backward(T* dtokens, T* dpositions, const T* dout, const int32_t* ids, const int32_t* positions,
                        int64_t N, int64_t D) {
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t d = 0; d < D; ++d) {
      dtokens[ids[n] * D + d] += dout[n * D + d];                           // out = tokens[ids] …
      if (dpositions) dpositions[positions[n] * D + d] += dout[n * D + d];  // … + positions_table[positions]
    }
  }
}

}  // namespace sffn::ref
