#include "kernels/ref/add_norm.h"

#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/reduce.h"
#include "kernels/ops.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace sffn::cpu {
namespace {

constexpr int64_t kGrain = 16384;  // elements a chunk

int64_t rows_per_chunk(int64_t D) { return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, D)); }

// One row of sum' = sum + pending (pending null: as it is) stored, and read back as stored.
template <class T>
const T* add_row(T* sum_out, const T* sum, const T* pending, int64_t D) {
  if (pending) {
#pragma omp simd
    for (int64_t d = 0; d < D; ++d) sum_out[d] = static_cast<float>(sum[d]) + static_cast<float>(pending[d]);
    return sum_out;
  }
  if (sum_out && sum_out != sum) std::copy_n(sum, D, sum_out);
  return sum;
}

template <class T>
void layer_norm_row(T* y, float& mean, float& rstd, const T* s, const float* weight, const float* bias, int64_t D,
                    double eps) {
  const auto width = static_cast<float>(D);
  const float mu = lane_sum<float>(D, [&](int64_t d) { return static_cast<float>(s[d]); }) / width;
  const float variance = lane_sum<float>(D,
                                         [&](int64_t d) {
                                           const float centred = static_cast<float>(s[d]) - mu;
                                           return centred * centred;
                                         }) /
                         width;
  const auto r = static_cast<float>(1 / std::sqrt(static_cast<double>(variance) + eps));
#pragma omp simd
  for (int64_t d = 0; d < D; ++d) y[d] = (static_cast<float>(s[d]) - mu) * r * weight[d] + bias[d];
  mean = mu;
  rstd = r;
}

template <class T>
void rms_norm_row(T* y, float& rstd, const T* s, const float* weight, int64_t D, double eps) {
  const float square = lane_sum<float>(D, [&](int64_t d) {
    const auto value = static_cast<float>(s[d]);
    return value * value;
  });
  const auto r = static_cast<float>(1 / std::sqrt(static_cast<double>(square / static_cast<float>(D)) + eps));
#pragma omp simd
  for (int64_t d = 0; d < D; ++d) y[d] = static_cast<float>(s[d]) * r * weight[d];
  rstd = r;
}

template <class T>
void forward(T* sum_out, T* y, float* mean, float* rstd, const T* sum, const T* pending, const float* weight,
             const float* bias, int64_t N, int64_t D, double eps) {
  parallel_chunks(N, rows_per_chunk(D), [&](int64_t first, int64_t last) {
    for (int64_t n = first; n < last; ++n) {
      const T* s = add_row(sum_out ? sum_out + n * D : nullptr, sum + n * D, pending ? pending + n * D : nullptr, D);
      if (mean) {
        layer_norm_row(y + n * D, mean[n], rstd[n], s, weight, bias, D, eps);
      } else {
        rms_norm_row(y + n * D, rstd[n], s, weight, D, eps);
      }
    }
  });
}

// dh += r·(g - mean(g) - x̂·mean(g·x̂)), g = dy·w, x̂ = (s - μ)·r; mean(g) only where the forward pass subtracted μ.
template <class T>
void backward_row(T* dh, const T* dy, const T* s, float mu, float r, bool centred, const float* weight, int64_t D) {
  const auto width = static_cast<float>(D);
  const float projection =
      lane_sum<float>(
          D, [&](int64_t d) { return static_cast<float>(dy[d]) * weight[d] * ((static_cast<float>(s[d]) - mu) * r); }) /
      width;
  const float offset =
      centred ? lane_sum<float>(D, [&](int64_t d) { return static_cast<float>(dy[d]) * weight[d]; }) / width : 0.0f;
#pragma omp simd
  for (int64_t d = 0; d < D; ++d) {
    const float xhat = (static_cast<float>(s[d]) - mu) * r;
    const float ds = static_cast<float>(dy[d]) * weight[d] - offset - xhat * projection;
    dh[d] = static_cast<float>(dh[d]) + r * ds;
  }
}

// Adds one row's dy·x̂ and dy.
template <class T>
void weight_row(float* dweight, float* dbias, const T* dy, const T* s, float mu, float r, int64_t D) {
#pragma omp simd
  for (int64_t d = 0; d < D; ++d) {
    const auto g = static_cast<float>(dy[d]);
    dweight[d] += g * ((static_cast<float>(s[d]) - mu) * r);
    dbias[d] += g;
  }
}

// Each chunk of rows sums its own dweight and dbias; the chunks are added in order of rows, whatever the threads.
template <class T>
void backward(T* dh, float* dweight, float* dbias, const T* dy, const T* sum, const float* mean, const float* rstd,
              const float* weight, int64_t N, int64_t D) {
  const int64_t rows = rows_per_chunk(D), chunks = (N + rows - 1) / rows;
#pragma omp parallel if (chunks > 1)
  {
    std::vector<float> own_dweight(static_cast<size_t>(D)), own_dbias(static_cast<size_t>(D));
#pragma omp for ordered schedule(static, 1)
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      std::fill(own_dweight.begin(), own_dweight.end(), 0.0f);
      std::fill(own_dbias.begin(), own_dbias.end(), 0.0f);
      for (int64_t n = chunk * rows; n < std::min(N, (chunk + 1) * rows); ++n) {
        const float mu = mean ? mean[n] : 0.0f;
        backward_row(dh + n * D, dy + n * D, sum + n * D, mu, rstd[n], mean != nullptr, weight, D);
        weight_row(own_dweight.data(), own_dbias.data(), dy + n * D, sum + n * D, mu, rstd[n], D);
      }
#pragma omp ordered
      for (int64_t d = 0; d < D; ++d) {
        dweight[d] += own_dweight[static_cast<size_t>(d)];
        if (dbias) dbias[d] += own_dbias[static_cast<size_t>(d)];
      }
    }
  }
}

}  // namespace

void add_norm_forward(Stream&, Tensor sum_out, Tensor y, Tensor mean, Tensor rstd, const Tensor& sum,
                      const Tensor& pending, const Tensor& weight, const Tensor& bias, double eps) {
  with_float_type(sum.dtype(), [&](auto type) {
    using T = decltype(type);
    using Acc = AccumulateOf<T>;
    const auto run = [&](auto kernel) {
      kernel(sum_out.data_or_null<T>(), y.data<T>(), mean.data_or_null<Acc>(), rstd.data<Acc>(), sum.data<T>(),
             pending.data_or_null<T>(), weight.data<Acc>(), bias.data_or_null<Acc>(), sum.shape()[0], sum.cols(), eps);
    };
    if constexpr (kIsReference<T>) {
      run(ref::add_norm_forward<T>);
    } else {
      run(forward<T>);
    }
  });
}

void add_norm_backward(Stream&, Tensor dh, Tensor dweight, Tensor dbias, const Tensor& dy, const Tensor& sum,
                       const Tensor& mean, const Tensor& rstd, const Tensor& weight) {
  with_float_type(dh.dtype(), [&](auto type) {
    using T = decltype(type);
    using Acc = AccumulateOf<T>;
    const auto run = [&](auto kernel) {
      kernel(dh.data<T>(), dweight.data<Acc>(), dbias.data_or_null<Acc>(), dy.data<T>(), sum.data<T>(),
             mean.data_or_null<Acc>(), rstd.data<Acc>(), weight.data<Acc>(), dh.shape()[0], dh.cols());
    };
    if constexpr (kIsReference<T>) {
      run(ref::add_norm_backward<T>);
    } else {
      run(backward<T>);
    }
  });
}

}  // namespace sffn::cpu
