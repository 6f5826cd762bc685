// Causal softmax attention with grouped-query heads, document masking and dropout: the judge of the fast kernels.
// Templates on the scalar type (double, std::complex<double>, float); one row of scores at a time, plain loops.
// b sequence, h query head, i query, j key, c channel of a head.
#pragma once
#include "core/random.h"
#include "kernels/ref/scalar.h"
#include "kernels/types.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace sffn::ref {

// Where a head's row of query, key or value begins in qkv [B·T, (H + 2·H_kv)·d_h], and in out [B·T, H·d_h].
struct AttentionIndex {
  AttentionShape shape;
  int64_t kv_head(int64_t h) const { return h / (shape.heads / shape.kv_heads); }
  int64_t row(int64_t b, int64_t i) const { return (b * shape.time + i) * shape.qkv_width(); }
  int64_t query(int64_t b, int64_t i, int64_t h) const { return row(b, i) + h * shape.head_dim; }
  int64_t key(int64_t b, int64_t j, int64_t h) const { return row(b, j) + (shape.heads + kv_head(h)) * shape.head_dim; }
  int64_t value(int64_t b, int64_t j, int64_t h) const { return key(b, j, h) + shape.kv_heads * shape.head_dim; }
  int64_t out(int64_t b, int64_t i, int64_t h) const {
    return (b * shape.time + i) * shape.out_width() + h * shape.head_dim;
  }
  int64_t score_row(int64_t b, int64_t h, int64_t i) const { return (b * shape.heads + h) * shape.time + i; }
};

template <class T>
T dot(const T* x, const T* y, int64_t n) {
  T total = 0;
  for (int64_t c = 0; c < n; ++c) total += x[c] * y[c];
  return total;
}

// What a kept or dropped probability is multiplied by.
inline double dropout_factor(const Dropout& dropout, int64_t element) {
  if (dropout.probability == 0) return 1;
  const bool dropped = random_uniform(dropout.draws.key, dropout.draws.first_index + element) < dropout.probability;
  return dropped ? 0 : 1 / (1 - dropout.probability);
}

// The first key that query i of sequence b sees.
inline int64_t first_visible(const int32_t* segment_start, const AttentionShape& shape, int64_t b, int64_t i) {
  return segment_start == nullptr ? 0 : segment_start[b * shape.time + i];
}

template <class T>
void attention_forward(T* out, T* lse, const T* qkv, const int32_t* segment_start, const AttentionShape& shape,
                       const Dropout& dropout) {
  const AttentionIndex at{shape};
  const T scale = constant<T>(shape.scale);
  std::vector<T> scores(shape.time);
  for (int64_t b = 0; b < shape.batch; ++b) {
    for (int64_t h = 0; h < shape.heads; ++h) {
      for (int64_t i = 0; i < shape.time; ++i) {
        const int64_t first = first_visible(segment_start, shape, b, i);
        for (int64_t j = first; j <= i; ++j) {
          scores[j] = scale * dot(qkv + at.query(b, i, h), qkv + at.key(b, j, h), shape.head_dim);
        }
        Real<T> largest = real(scores[first]);  // shifts every score: no part of the derivative
        for (int64_t j = first; j <= i; ++j) largest = std::max(largest, real(scores[j]));
        T sum = 0;
        for (int64_t j = first; j <= i; ++j) sum += std::exp(scores[j] - largest);
        const int64_t row = at.score_row(b, h, i);
        lse[row] = std::log(sum) + largest;

        T* out_i = out + at.out(b, i, h);
        for (int64_t c = 0; c < shape.head_dim; ++c) out_i[c] = 0;
        for (int64_t j = first; j <= i; ++j) {
          const T factor = constant<T>(dropout_factor(dropout, row * shape.time + j));
          const T p = std::exp(scores[j] - largest) / sum * factor;
          const T* v_j = qkv + at.value(b, j, h);
          for (int64_t c = 0; c < shape.head_dim; ++c) out_i[c] += p * v_j[c];
        }
      }
    }
  }
}

template <class T>
void attention_backward(T* dqkv, const T* dout, const T* out, const T* lse, const T* qkv, const int32_t* segment_start,
                        const AttentionShape& shape, const Dropout& dropout) {
  const AttentionIndex at{shape};
  const T scale = constant<T>(shape.scale);
  for (int64_t x = 0; x < shape.tokens() * shape.qkv_width(); ++x) dqkv[x] = 0;
  for (int64_t b = 0; b < shape.batch; ++b) {
    for (int64_t h = 0; h < shape.heads; ++h) {
      for (int64_t i = 0; i < shape.time; ++i) {
        const int64_t row = at.score_row(b, h, i);
        const T* dout_i = dout + at.out(b, i, h);
        const T* q_i = qkv + at.query(b, i, h);
        const T d_i = dot(dout_i, out + at.out(b, i, h), shape.head_dim);
        for (int64_t j = first_visible(segment_start, shape, b, i); j <= i; ++j) {
          const T* k_j = qkv + at.key(b, j, h);
          const T p = std::exp(scale * dot(q_i, k_j, shape.head_dim) - lse[row]);
          const T factor = constant<T>(dropout_factor(dropout, row * shape.time + j));
          const T dp = factor * dot(dout_i, qkv + at.value(b, j, h), shape.head_dim);
          const T ds = p * (dp - d_i);
          for (int64_t c = 0; c < shape.head_dim; ++c) {
            dqkv[at.query(b, i, h) + c] += scale * ds * k_j[c];
            dqkv[at.key(b, j, h) + c] += scale * ds * q_i[c];
            dqkv[at.value(b, j, h) + c] += factor * p * dout_i[c];
          }
        }
      }
    }
  }
}

// cache [B, capacity, 2·H_kv·d_h]: a row is the key heads, then the value heads of a token.
template <class T>
void attention_cached(T* out, T* cache, const T* qkv, const AttentionShape& shape, int64_t first, int64_t capacity) {
  const AttentionIndex at{shape};
  const int64_t row = 2 * shape.kv_heads * shape.head_dim, values = shape.kv_heads * shape.head_dim;
  const T scale = constant<T>(shape.scale);
  std::vector<T> weights(first + shape.time);
  for (int64_t b = 0; b < shape.batch; ++b) {
    for (int64_t t = 0; t < shape.time; ++t) {
      std::copy_n(qkv + at.key(b, t, 0), row, cache + (b * capacity + first + t) * row);
    }
    for (int64_t h = 0; h < shape.heads; ++h) {
      const T* keys = cache + b * capacity * row + at.kv_head(h) * shape.head_dim;
      for (int64_t t = 0; t < shape.time; ++t) {
        const int64_t visible = first + t + 1;
        Real<T> largest = -std::numeric_limits<Real<T>>::infinity();
        for (int64_t j = 0; j < visible; ++j) {
          weights[j] = scale * dot(qkv + at.query(b, t, h), keys + j * row, shape.head_dim);
          largest = std::max(largest, real(weights[j]));
        }
        T sum = 0;
        for (int64_t j = 0; j < visible; ++j) sum += weights[j] = std::exp(weights[j] - largest);
        for (int64_t c = 0; c < shape.head_dim; ++c) {
          T total = 0;
          for (int64_t j = 0; j < visible; ++j) total += weights[j] * keys[j * row + values + c];
          out[at.out(b, t, h) + c] = total / sum;
        }
      }
    }
  }
}

}  // namespace sffn::ref
