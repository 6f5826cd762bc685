// p[n,:] = exp(s[n,:] - lse[n]), lse[n] = log Σ_i exp s[n,i].
#pragma once
#include "kernels/ref/gate.h"

namespace sffn::ref {

// p may be scores; lse may be null.
template <class T>
void softmax_rows_forward(T* p, T* lse, const T* scores, int64_t rows, int64_t columns) {
  for (int64_t n = 0; n < rows; ++n) {
    const T row_lse = logsumexp(scores + n * columns, columns);
    if (lse) lse[n] = row_lse;
    for (int64_t i = 0; i < columns; ++i) p[n * columns + i] = std::exp(scores[n * columns + i] - row_lse);
  }
}

// p_i = e^{s_i}/Σ:  ds_i = p_i (dp_i - Σ_j p_j dp_j);  lse = log Σ:  ds_i = p_i dlse, dlse = lse_scale·lse.
// dp [groups, columns] or null; lse or null.
template <class T>
void softmax_rows_backward(T* dscores, const T* p, const T* dp, const T* lse, double lse_scale, int64_t rows,
                           int64_t columns, int64_t groups) {
  for (int64_t n = 0; n < rows; ++n) {
    const T* row = p + n * columns;
    const T* of_group = dp ? dp + n / (rows / groups) * columns : nullptr;
    T shift = lse ? constant<T>(lse_scale) * lse[n] : T(0);
    for (int64_t i = 0; dp && i < columns; ++i) shift -= row[i] * of_group[i];
    for (int64_t i = 0; i < columns; ++i) dscores[n * columns + i] += row[i] * ((dp ? of_group[i] : T(0)) + shift);
  }
}

}  // namespace sffn::ref
