// split_columns:  parts[p,n,j] = x[n, p·W + j]                                          parts [P,N,W]  x [N,P·W]
// join_columns:   x[n, p·W + j] = parts[p,n,j] (+ x)
// Lanes take rows of W elements, in the order of x.
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/row_lanes.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace {

struct Sizes {
  int64_t P, N, W;
};

template <int kCount, class T>
__global__ void split_columns_kernel(T* parts, const T* x, Sizes s) {
  const int64_t row = row_of_thread(), n = row / s.P, p = row % s.P;
  if (n >= s.N) return;
  for (int64_t j = threadIdx.x * kCount; j < s.W; j += blockDim.x * kCount) {
    float part[kCount];
    load_floats(part, x + row * s.W + j);
    store_floats(parts + (p * s.N + n) * s.W + j, part);
  }
}

template <int kCount, class T>
__global__ void join_columns_kernel(T* x, const T* parts, Sizes s, bool accumulate) {
  const int64_t row = row_of_thread(), n = row / s.P, p = row % s.P;
  if (n >= s.N) return;
  for (int64_t j = threadIdx.x * kCount; j < s.W; j += blockDim.x * kCount) {
    float part[kCount], before[kCount] = {};
    load_floats(part, parts + (p * s.N + n) * s.W + j);
    if (accumulate) load_floats(before, x + row * s.W + j);
    for (int e = 0; e < kCount && accumulate; ++e) part[e] += before[e];
    store_floats(x + row * s.W + j, part);
  }
}

}  // namespace

void split_columns(Stream& stream, Tensor parts, const Tensor& x) {
  const Sizes s{.P = parts.shape()[0], .N = parts.shape()[1], .W = parts.cols()};
  with_activation_type("split_columns", x, [&]<class T>(T) {
    constexpr int kCount = kPackCount<T>;
    const bool packs = packs_fit(s.W, kCount, parts.data<T>(), x.data<T>());
    launch(stream, packs ? split_columns_kernel<kCount, T> : split_columns_kernel<1, T>,
           shape_of_rows(s.N * s.P, packs ? s.W / kCount : s.W), Work{bytes_of(parts, x)}, parts.data<T>(), x.data<T>(),
           s);
  });
}

void join_columns(Stream& stream, Tensor x, const Tensor& parts, Accumulate accumulate) {
  const Sizes s{.P = parts.shape()[0], .N = parts.shape()[1], .W = parts.cols()};
  with_activation_type("join_columns", x, [&]<class T>(T) {
    constexpr int kCount = kPackCount<T>;
    const bool packs = packs_fit(s.W, kCount, parts.data<T>(), x.data<T>());
    launch(stream, packs ? join_columns_kernel<kCount, T> : join_columns_kernel<1, T>,
           shape_of_rows(s.N * s.P, packs ? s.W / kCount : s.W),
           Work{bytes_of(x, parts) + (accumulate == Accumulate::kYes ? bytes_of(x) : 0)}, x.data<T>(), parts.data<T>(),
           s, accumulate == Accumulate::kYes);
  });
}

}  // namespace sffn::cuda
