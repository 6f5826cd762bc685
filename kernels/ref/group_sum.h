// out[s,c] = Σ over the rows n of group s of x[n,c].
#pragma once
#include <algorithm>
#include <cstdint>

namespace sffn::ref {

template <class T>
void group_sum(T* out, const T* x, int64_t rows, int64_t columns, int64_t groups) {
  std::fill(out, out + groups * columns, T(0));
  for (int64_t n = 0; n < rows; ++n) {
    T* of_group = out + n / (rows / groups) * columns;
    for (int64_t c = 0; c < columns; ++c) of_group[c] += x[n * columns + c];
  }
}

}  // namespace sffn::ref
