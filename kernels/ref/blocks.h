// Products of sorted rows with the blocks of a table, the definitions. Legend: kernels/op_list.inc.
#pragma once
#include "kernels/block_rows.h"
#include "kernels/types.h"

#include <cstdint>

namespace sffn::ref {

// f(block, row) for every sorted row: of a token, its blocks ascend.
template <class F>
void for_each_row(const BlockRows& rows, F&& f) {
  for (int64_t c = 0; c < rows.chunks(); ++c) {
    for (int64_t i = 0; i < rows.blocks; ++i) {
      for (int64_t p = rows.first(c, i); p < rows.last(c, i); ++p) f(i, p);
    }
  }
}

template <class T>
T weight_of(const T* weights, const BlockRows& rows, int64_t p) {
  return weights != nullptr ? weights[rows.order[p]] : T(1);
}

// z[p,j] = Σ_d x[n,d]·w[i·G + j,d] + bias[i·G + j], n the token of row p of block i; 0 in unused rows
template <class T>
void block_project(T* z, const T* x, const T* w, const T* bias, const BlockRows& rows, int64_t G, int64_t D) {
  for (int64_t e = rows.used() * G; e < rows.choices() * G; ++e) z[e] = T{};
  for_each_row(rows, [&](int64_t i, int64_t p) {
    for (int64_t j = 0; j < G; ++j) {
      T sum = bias != nullptr ? bias[i * G + j] : T{};
      for (int64_t d = 0; d < D; ++d) sum += x[rows.token(p) * D + d] * w[(i * G + j) * D + d];
      z[p * G + j] = sum;
    }
  });
}

// y[n,d] = bias[d] (+ y[n,d]) + Σ_p weight(p)·Σ_j h[p,j]·w[i·G + j,d] over the rows p of token n, i the block of p
template <class T>
void block_combine(T* y, const T* h, const T* weights, const T* w, const T* bias, const BlockRows& rows,
                   Accumulate accumulate, int64_t G, int64_t D) {
  for (int64_t n = 0; n < rows.tokens; ++n) {
    for (int64_t d = 0; d < D; ++d) {
      const T start = bias != nullptr ? bias[d] : T{};
      y[n * D + d] = accumulate == Accumulate::kYes ? y[n * D + d] + start : start;
    }
  }
  for_each_row(rows, [&](int64_t i, int64_t p) {
    for (int64_t d = 0; d < D; ++d) {
      T sum{};
      for (int64_t j = 0; j < G; ++j) sum += h[p * G + j] * w[(i * G + j) * D + d];
      y[rows.token(p) * D + d] += weight_of(weights, rows, p) * sum;
    }
  });
}

// y[n] = Σ_p weight(p)·h[p]·W_i, so dW_i += Σ_p weight(p)·h[p]ᵀ·dy[n]; here x stands for dy
template <class T>
void block_weight_gradient(T* dw, const T* h, const T* weights, const T* x, const BlockRows& rows, int64_t G,
                           int64_t D) {
  for_each_row(rows, [&](int64_t i, int64_t p) {
    for (int64_t j = 0; j < G; ++j) {
      const T coefficient = weight_of(weights, rows, p) * h[p * G + j];
      for (int64_t d = 0; d < D; ++d) dw[(i * G + j) * D + d] += coefficient * x[rows.token(p) * D + d];
    }
  });
}

// z[p,j] = … + bias[i·G + j], so dbias[i·G + j] += Σ_p dz[p,j]
template <class T>
void block_bias_gradient(T* dbias, const T* dz, const BlockRows& rows, int64_t G) {
  for_each_row(rows, [&](int64_t i, int64_t p) {
    for (int64_t j = 0; j < G; ++j) dbias[i * G + j] += dz[p * G + j];
  });
}

// v[r,j] = weights[c]·h[r,j] with dv in dh: dweights[c] = Σ_j h[r,j]·dv[r,j];  dh[r,j] = weights[c]·dv[r,j]
template <class T>
void weigh_backward(T* dh, T* dweights, const T* h, const T* weights, const int32_t* inverse, int64_t P, int64_t G) {
  for (int64_t c = 0; c < P; ++c) {
    const int64_t r = inverse != nullptr ? inverse[c] : c;
    dweights[c] = T{};
    for (int64_t j = 0; j < G && r >= 0; ++j) {
      dweights[c] += h[r * G + j] * dh[r * G + j];
      dh[r * G + j] *= weights[c];
    }
  }
}

}  // namespace sffn::ref
