// weights[n,i] = σ(l) | exp(l)/Σ_{all blocks} exp | exp(l)/Σ_{chosen} exp of l = logits[n, blocks[n,i]]; 0 for -1.
#pragma once
#include "kernels/ref/scalar.h"
#include "kernels/routing.h"

#include <algorithm>
#include <limits>

namespace sffn::ref {

// log Σ exp of the chosen logits; 0 when none is left.
template <class T>
T chosen_logsumexp(const T* logits, const int32_t* blocks, int64_t per_token) {
  Real<T> largest = -std::numeric_limits<Real<T>>::infinity();
  for (int64_t i = 0; i < per_token; ++i) {
    if (blocks[i] >= 0) largest = std::max(largest, real(logits[blocks[i]]));
  }
  T sum = 0;
  for (int64_t i = 0; i < per_token; ++i) {
    if (blocks[i] >= 0) sum += std::exp(logits[blocks[i]] - largest);
  }
  return real(sum) == 0 ? T(0) : std::log(sum) + largest;
}

template <class T>
T logsumexp(const T* x, int64_t n) {
  Real<T> largest = real(x[0]);  // shifts every term: no part of the derivative
  for (int64_t i = 1; i < n; ++i) largest = std::max(largest, real(x[i]));
  T sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(x[i] - largest);
  return std::log(sum) + largest;
}

template <class T>
void gate_row(T* weights, const T* logits, const int32_t* blocks, int64_t per_token, int64_t block_count, Gate gate) {
  const T lse = gate == Gate::kSoftmax         ? logsumexp(logits, block_count)
                : gate == Gate::kSoftmaxChosen ? chosen_logsumexp(logits, blocks, per_token)
                                               : T(0);
  for (int64_t i = 0; i < per_token; ++i) {
    if (blocks[i] < 0) {
      weights[i] = T(0);
    } else {
      const T logit = logits[blocks[i]];
      weights[i] = gate == Gate::kSigmoid ? sigmoid(logit) : std::exp(logit - lse);
    }
  }
}

template <class T>
void gate_forward(T* weights, const T* logits, const int32_t* blocks, int64_t tokens, int64_t per_token,
                  int64_t block_count, Gate gate) {
  for (int64_t n = 0; n < tokens; ++n) {
    gate_row(weights + n * per_token, logits + n * block_count, blocks + n * per_token, per_token, block_count, gate);
  }
}

template <class T>
void gate_row_backward(T* dlogits, const T* dweights, const T* weights, const T* logits, const int32_t* blocks,
                       int64_t per_token, int64_t block_count, Gate gate) {
  T dot = 0;  // Σ_i dw_i w_i
  for (int64_t i = 0; i < per_token; ++i) {
    if (blocks[i] >= 0) dot += dweights[i] * weights[i];
  }
  for (int64_t i = 0; i < per_token; ++i) {
    if (blocks[i] < 0) continue;
    const T logit = logits[blocks[i]];
    switch (gate) {
      case Gate::kSigmoid:  // w = σ(l):  dl = dw·σ(l)·σ(-l)
        dlogits[blocks[i]] += dweights[i] * sigmoid(logit) * sigmoid(-logit);
        break;
      case Gate::kSoftmax:  // w_i = p_i:  dl_j = dw_j p_j - p_j Σ dw w, the second for every block j
        dlogits[blocks[i]] += dweights[i] * weights[i];
        break;
      case Gate::kSoftmaxChosen:  // dl_i = w_i (dw_i - Σ dw w)
        dlogits[blocks[i]] += weights[i] * (dweights[i] - dot);
        break;
    }
  }
  if (gate == Gate::kSoftmax) {
    const T lse = logsumexp(logits, block_count);
    for (int64_t j = 0; j < block_count; ++j) dlogits[j] -= std::exp(logits[j] - lse) * dot;
  }
}

template <class T>
void gate_backward(T* dlogits, const T* dweights, const T* weights, const T* logits, const int32_t* blocks,
                   int64_t tokens, int64_t per_token, int64_t block_count, Gate gate) {
  for (int64_t n = 0; n < tokens; ++n) {
    gate_row_backward(dlogits + n * block_count, dweights + n * per_token, weights + n * per_token,
                      logits + n * block_count, blocks + n * per_token, per_token, block_count, gate);
  }
}

}  // namespace sffn::ref
