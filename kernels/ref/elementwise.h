#pragma once
#include <cstdint>

namespace sffn::ref {

// y += x
template <class T>
void add(T* y, const T* x, int64_t count) {
  for (int64_t i = 0; i < count; ++i) y[i] += x[i];
}

// out[c] += Σ_r x[r,c]
template <class T>
void column_sum(T* out, const T* x, int64_t rows, int64_t cols) {
  for (int64_t c = 0; c < cols; ++c) {
    T sum{};
    for (int64_t r = 0; r < rows; ++r) sum += x[r * cols + c];
    out[c] += sum;
  }
}

}  // namespace sffn::ref
