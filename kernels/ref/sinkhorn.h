// out = x + f + g, f_t = -log Σ_i exp(x_ti + s·g_i), g_i = log(n/B) - log Σ_t exp(x_ti + s·f_t), s = ±1 by variant.
#pragma once
#include "kernels/ref/gate.h"

#include <vector>

namespace sffn::ref {

template <class T>
void sinkhorn_group(T* out, const T* x, int64_t tokens, int64_t blocks, int64_t iterations, Sinkhorn variant) {
  const T sign = constant<T>(variant == Sinkhorn::kTextbook ? 1 : -1);
  const T share = constant<T>(std::log(static_cast<double>(tokens) / static_cast<double>(blocks)));
  std::vector<T> f(static_cast<size_t>(tokens)), g(static_cast<size_t>(blocks), T(0));
  std::vector<T> row(g), column(f);
  for (int64_t iteration = 0; iteration < iterations; ++iteration) {
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t i = 0; i < blocks; ++i) row[i] = x[t * blocks + i] + sign * g[i];
      f[t] = -logsumexp(row.data(), blocks);
    }
    for (int64_t i = 0; i < blocks; ++i) {
      for (int64_t t = 0; t < tokens; ++t) column[t] = x[t * blocks + i] + sign * f[t];
      g[i] = share - logsumexp(column.data(), tokens);
    }
  }
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t i = 0; i < blocks; ++i) out[t * blocks + i] = x[t * blocks + i] + f[t] + g[i];
  }
}

}  // namespace sffn::ref
