// sum' = sum + pending, then LayerNorm (mean given) or RMSNorm (mean null) of each row of sum':
//   x̂ = (sum' - μ)·r,   y = x̂·w + b,   μ = mean(sum'), r = (mean((sum' - μ)²) + eps)^-1/2      (RMSNorm: μ = 0, b = 0)
// Ba et al., arXiv 1607.06450, eq. 4; Zhang & Sennrich, arXiv 1910.07467, eq. 4.
#pragma once
#include "kernels/ref/scalar.h"

#include <cstdint>

namespace sffn::ref {

// pending may be null (sum' = sum), and sum_out then too; mean and bias are null for RMSNorm.
template <class T>
void add_norm_forward(T* sum_out, T* y, T* mean, T* rstd, const T* sum, const T* pending, const T* weight,
                      const T* bias, int64_t N, int64_t D, double eps) {
  const T width = constant<T>(static_cast<double>(D));
  for (int64_t n = 0; n < N; ++n) {
    const auto x = [&](int64_t d) { return pending ? sum[n * D + d] + pending[n * D + d] : sum[n * D + d]; };
    T mu = T(0);
    if (mean) {
      for (int64_t d = 0; d < D; ++d) mu += x(d);
      mu /= width;
      mean[n] = mu;
    }
    T variance = T(0);
    for (int64_t d = 0; d < D; ++d) variance += square(x(d) - mu);
    variance /= width;
    const T r = T(1) / std::sqrt(variance + constant<T>(eps));
    rstd[n] = r;
    for (int64_t d = 0; d < D; ++d) {
      const T s = x(d);
      y[n * D + d] = (s - mu) * r * weight[d];
      if (bias) y[n * D + d] += bias[d];
      if (sum_out) sum_out[n * D + d] = s;
    }
  }
}

// sum is sum' of the forward pass. dh, dweight and dbias are added to; mean and dbias are null for RMSNorm.
template <class T>
void add_norm_backward(T* dh, T* dweight, T* dbias, const T* dy, const T* sum, const T* mean, const T* rstd,
                       const T* weight, int64_t N, int64_t D) {
  const T width = constant<T>(static_cast<double>(D));
  for (int64_t n = 0; n < N; ++n) {
    const T mu = mean ? mean[n] : T(0), r = rstd[n];
    // y = x̂·w + b
    T mean_dxhat = T(0), mean_dxhat_xhat = T(0);
    for (int64_t d = 0; d < D; ++d) {
      const T xhat = (sum[n * D + d] - mu) * r;
      const T dxhat = dy[n * D + d] * weight[d];
      dweight[d] += dy[n * D + d] * xhat;
      if (dbias) dbias[d] += dy[n * D + d];
      mean_dxhat += dxhat;
      mean_dxhat_xhat += dxhat * xhat;
    }
    mean_dxhat /= width;
    mean_dxhat_xhat /= width;
    // x̂ = (s - μ)·r with ∂r/∂s = -r²·x̂/D (from r = (mean((s - μ)²) + eps)^-1/2) and ∂μ/∂s = 1/D (μ = mean(s))
    for (int64_t d = 0; d < D; ++d) {
      const T xhat = (sum[n * D + d] - mu) * r;
      const T dxhat = dy[n * D + d] * weight[d];
      T ds = dxhat - xhat * mean_dxhat_xhat;
      if (mean) ds -= mean_dxhat;
      dh[n * D + d] += r * ds;
    }
  }
}

}  // namespace sffn::ref
