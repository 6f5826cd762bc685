// noisy = logits + n·softplus(spread), n = N(0,1): Shazeer et al., arXiv 1701.06538, eq. 4.
#pragma once
#include "kernels/ref/scalar.h"
#include "kernels/types.h"

namespace sffn::ref {

// log(1 + e^x), by e^-|x| so that nothing overflows.
template <class T>
T softplus(T x) {
  const T e = std::exp(real(x) > 0 ? -x : x);
  T log_term;
  if constexpr (std::is_same_v<T, Complex>) {
    log_term = std::log(T(1) + e);
  } else {
    log_term = std::log1p(e);
  }
  return real(x) > 0 ? x + log_term : log_term;
}

// The same float draws in every dtype.
inline float noise(const Draws& draws, int64_t index) {
  return static_cast<float>(random_normal(draws.key, static_cast<uint64_t>(draws.first_index + index)));
}

// noisy may be logits.
template <class T>
void noisy_scores_forward(T* noisy, const T* logits, const T* spread, int64_t n, const Draws& draws) {
  for (int64_t i = 0; i < n; ++i) noisy[i] = logits[i] + T(noise(draws, i)) * softplus(spread[i]);
}

// softplus' = σ
template <class T>
void noisy_scores_backward(T* dlogits, T* dspread, const T* dnoisy, const T* spread, int64_t n, const Draws& draws) {
  for (int64_t i = 0; i < n; ++i) {
    dlogits[i] += dnoisy[i];
    dspread[i] += dnoisy[i] * T(noise(draws, i)) * sigmoid(spread[i]);
  }
}

}  // namespace sffn::ref
