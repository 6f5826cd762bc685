#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/ops.h"
#include "kernels/ref/attention.h"

#include <algorithm>
#include <limits>

namespace sffn::cpu {
namespace {

// One query of one head against the cached rows it sees: fp32 scores, softmax and sums.
template <class T>
struct CachedQuery {
  const T* query;   // [d_h]
  const T* keys;    // row j begins at keys + j·stride
  const T* values;  // likewise
  int64_t stride, visible, head_dim;
  float scale;

  void attend(T* out) const {
    thread_local Scratch scratch;
    float* weights = static_cast<float*>(scratch.get(static_cast<size_t>(visible + head_dim) * sizeof(float)));
    float* total = weights + visible;
    const float sum = softmax(weights);
    std::fill_n(total, head_dim, 0.0f);
    for (int64_t j = 0; j < visible; ++j) {
      const T* value = values + j * stride;
#pragma omp simd
      for (int64_t c = 0; c < head_dim; ++c) total[c] += weights[j] * static_cast<float>(value[c]);
    }
    for (int64_t c = 0; c < head_dim; ++c) out[c] = total[c] / sum;
  }

 private:
  // weights[j] = e^(score - largest); returns their sum.
  float softmax(float* weights) const {
    float largest = -std::numeric_limits<float>::infinity();
    for (int64_t j = 0; j < visible; ++j) {
      const T* key = keys + j * stride;
      float score = 0;
#pragma omp simd reduction(+ : score)
      for (int64_t c = 0; c < head_dim; ++c) score += static_cast<float>(query[c]) * static_cast<float>(key[c]);
      weights[j] = scale * score;
      largest = std::max(largest, weights[j]);
    }
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < visible; ++j) sum += weights[j] = exp_f32(weights[j] - largest);
    return sum;
  }
};

template <class T>
void cached(T* out, T* cache, const T* qkv, const AttentionShape& shape, int64_t first, int64_t capacity) {
  const ref::AttentionIndex at{shape};
  const int64_t row = 2 * shape.kv_heads * shape.head_dim;
  for (int64_t b = 0; b < shape.batch; ++b) {
    for (int64_t t = 0; t < shape.time; ++t) {
      std::copy_n(qkv + at.key(b, t, 0), row, cache + (b * capacity + first + t) * row);
    }
  }
  parallel_chunks(shape.tokens() * shape.heads, 1, [&](int64_t item, int64_t) {
    const int64_t h = item % shape.heads, token = item / shape.heads;
    const int64_t b = token / shape.time, t = token % shape.time;
    const T* keys = cache + b * capacity * row + at.kv_head(h) * shape.head_dim;
    const CachedQuery<T> query{qkv + at.query(b, t, h), keys,           keys + shape.kv_heads * shape.head_dim, row,
                               first + t + 1,           shape.head_dim, static_cast<float>(shape.scale)};
    query.attend(out + at.out(b, t, h));
  });
}

}  // namespace

void attention_cached(Stream&, Tensor out, Tensor cache, const Tensor& qkv, const AttentionShape& shape,
                      int64_t first) {
  const int64_t capacity = cache.shape()[1];
  with_float_type(qkv.dtype(), [&]<class T>(T) {
    if constexpr (kIsReference<T>) {
      ref::attention_cached(out.data<T>(), cache.data<T>(), qkv.data<T>(), shape, first, capacity);
    } else {
      cached(out.data<T>(), cache.data<T>(), qkv.data<T>(), shape, first, capacity);
    }
  });
}

}  // namespace sffn::cpu
