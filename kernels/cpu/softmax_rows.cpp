#include "kernels/ref/softmax_rows.h"

#include "core/stream.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/softmax_row.h"
#include "kernels/ops.h"

namespace sffn::cpu {
namespace {

constexpr int64_t kGrain = 1 << 14;  // elements of one unit of work, at least

void forward_row(float* p, float* lse, const float* scores, int64_t columns) {
  const SoftmaxRow row = softmax_row(scores, columns);
  const float largest = row.largest, factor = 1.0f / row.sum;
  if (lse) *lse = row.lse();
#pragma omp simd
  for (int64_t i = 0; i < columns; ++i) p[i] = exp_f32(scores[i] - largest) * factor;
}

void backward_row(float* dscores, const float* p, const float* dp, float dlse, int64_t columns) {
  if (!dp) {
#pragma omp simd
    for (int64_t i = 0; i < columns; ++i) dscores[i] += p[i] * dlse;
    return;
  }
  const float shift = dlse - lane_sum<float>(columns, [&](int64_t i) { return p[i] * dp[i]; });
#pragma omp simd
  for (int64_t i = 0; i < columns; ++i) dscores[i] += p[i] * (dp[i] + shift);
}

}  // namespace

void softmax_rows_forward(Stream&, Tensor p, Tensor lse, const Tensor& scores) {
  const int64_t rows = scores.rows(), columns = scores.cols();
  with_accumulate_type(scores.dtype(), [&]<class T>(T) {
    T *out = p.data<T>(), *row_lse = lse.data_or_null<T>();
    const T* in = scores.data<T>();
    if constexpr (kIsReference<T>) {
      ref::softmax_rows_forward(out, row_lse, in, rows, columns);
    } else {
      parallel_chunks(rows, std::max<int64_t>(1, kGrain / columns), [&](int64_t first, int64_t last) {
        for (int64_t n = first; n < last; ++n) {
          forward_row(out + n * columns, row_lse ? row_lse + n : nullptr, in + n * columns, columns);
        }
      });
    }
  });
}

void softmax_rows_backward(Stream&, Tensor dscores, const Tensor& p, const Tensor& dp, const Tensor& lse,
                           double lse_scale) {
  const int64_t rows = p.rows(), columns = p.cols(), groups = dp.defined() ? dp.rows() : 1;
  with_accumulate_type(p.dtype(), [&]<class T>(T) {
    T* out = dscores.data<T>();
    const T *in = p.data<T>(), *gradient = dp.data_or_null<T>(), *row_lse = lse.data_or_null<T>();
    if constexpr (kIsReference<T>) {
      ref::softmax_rows_backward(out, in, gradient, row_lse, lse_scale, rows, columns, groups);
    } else {
      parallel_chunks(rows, std::max<int64_t>(1, kGrain / columns), [&](int64_t first, int64_t last) {
        for (int64_t n = first; n < last; ++n) {
          const float* of_group = gradient ? gradient + n / (rows / groups) * columns : nullptr;
          const float dlse = row_lse ? static_cast<float>(lse_scale) * row_lse[n] : 0.0f;
          backward_row(out + n * columns, in + n * columns, of_group, dlse, columns);
        }
      });
    }
  });
}

}  // namespace sffn::cpu
