#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/index_check.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/reduce.h"
#include "kernels/ops.h"
#include "kernels/ref/product_keys.h"

#include <algorithm>

namespace sffn::cpu {
namespace {

using ref::ProductKeySizes;

constexpr int64_t kGrain = 16384;  // scores a chunk, half scores that are cleared included

ProductKeySizes sizes_of(const Tensor& s1, const Tensor& s2, const Tensor& scores) {
  const int64_t H = s1.shape()[0];
  return {.H = H, .N = s1.shape()[1], .C1 = s1.cols(), .C2 = s2.cols(), .k = scores.cols() / H};
}

// f(n, h) for every token and head, on the rank's threads
template <class F>
void for_each_row(const ProductKeySizes& s, F&& f) {
  const int64_t work = s.H * (s.k + s.C1 + s.C2);
  parallel_chunks(s.N, std::max<int64_t>(1, kGrain / work), [&](int64_t first, int64_t last) {
    for (int64_t n = first; n < last; ++n) {
      for (int64_t h = 0; h < s.H; ++h) f(n, h);
    }
  });
}

void chosen_forward(float* scores, const float* s1, const float* s2, const int32_t* cells, const ProductKeySizes& s) {
  const auto columns = static_cast<int32_t>(s.C2);
  for (int64_t i = 0; i < s.k; ++i) scores[i] = s1[cells[i] / columns] + s2[cells[i] % columns];
}

void all_forward(float* scores, const float* s1, const float* s2, const ProductKeySizes& s) {
  for (int64_t i1 = 0; i1 < s.C1; ++i1) {
#pragma omp simd
    for (int64_t i2 = 0; i2 < s.C2; ++i2) scores[i1 * s.C2 + i2] = s1[i1] + s2[i2];
  }
}

void chosen_backward(float* ds1, float* ds2, const float* dscores, const int32_t* cells, const ProductKeySizes& s) {
  const auto columns = static_cast<int32_t>(s.C2);
  for (int64_t i = 0; i < s.k; ++i) {
    ds1[cells[i] / columns] += dscores[i];
    ds2[cells[i] % columns] += dscores[i];
  }
}

void all_backward(float* ds1, float* ds2, const float* dscores, const ProductKeySizes& s) {
  for (int64_t i1 = 0; i1 < s.C1; ++i1) {
    const float* row = dscores + i1 * s.C2;
    ds1[i1] = lane_sum<float>(s.C2, [&](int64_t i2) { return row[i2]; });
#pragma omp simd
    for (int64_t i2 = 0; i2 < s.C2; ++i2) ds2[i2] += row[i2];
  }
}

}  // namespace

void product_scores_forward(Stream&, Tensor scores, const Tensor& s1, const Tensor& s2, const Tensor& cells) {
  const ProductKeySizes s = sizes_of(s1, s2, scores);
  if (cells.defined()) check_indices("product_scores_forward", "cells", cells, 0, s.C1 * s.C2);
  const int32_t* ids = cells.data_or_null<int32_t>();
  with_accumulate_type(s1.dtype(), [&]<class T>(T) {
    T* out = scores.data<T>();
    const T *half1 = s1.data<T>(), *half2 = s2.data<T>();
    if constexpr (kIsReference<T>) {
      ref::product_scores_forward(out, half1, half2, ids, s);
    } else {
      for_each_row(s, [&](int64_t n, int64_t h) {
        float* row = out + (n * s.H + h) * s.k;
        const float *row1 = half1 + (h * s.N + n) * s.C1, *row2 = half2 + (h * s.N + n) * s.C2;
        if (ids != nullptr) {
          chosen_forward(row, row1, row2, ids + (n * s.H + h) * s.k, s);
        } else {
          all_forward(row, row1, row2, s);
        }
      });
    }
  });
}

void product_scores_backward(Stream&, Tensor ds1, Tensor ds2, const Tensor& dscores, const Tensor& cells) {
  const ProductKeySizes s = sizes_of(ds1, ds2, dscores);
  if (cells.defined()) check_indices("product_scores_backward", "cells", cells, 0, s.C1 * s.C2);
  const int32_t* ids = cells.data_or_null<int32_t>();
  with_accumulate_type(ds1.dtype(), [&]<class T>(T) {
    T *half1 = ds1.data<T>(), *half2 = ds2.data<T>();
    const T* in = dscores.data<T>();
    if constexpr (kIsReference<T>) {
      ref::product_scores_backward(half1, half2, in, ids, s);
    } else {
      for_each_row(s, [&](int64_t n, int64_t h) {
        const float* row = in + (n * s.H + h) * s.k;
        float *row1 = half1 + (h * s.N + n) * s.C1, *row2 = half2 + (h * s.N + n) * s.C2;
        std::fill_n(row1, s.C1, 0.0f);
        std::fill_n(row2, s.C2, 0.0f);
        if (ids != nullptr) {
          chosen_backward(row1, row2, row, ids + (n * s.H + h) * s.k, s);
        } else {
          all_backward(row1, row2, row, s);
        }
      });
    }
  });
}

}  // namespace sffn::cpu
