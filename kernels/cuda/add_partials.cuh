// Sums over the rows of a matrix whose ranges of rows were summed by blocks of their own, partial[i] by block i.
#pragma once
#include "kernels/cuda/launch.cuh"

namespace sffn::cuda {

inline constexpr int kPartialColumns = 32, kPartialsAtOnce = 8;

// first[c] += Σ_i partial[i,c], and second[c] += Σ_i partial[i, C + c] unless it is null. partial [ranges, width]: 8
// sums of every 8th range, then those in order.
template <class T>  // a template, so that several files may have it
__global__ void add_partials_kernel(T* first, T* second, const T* partial, int64_t ranges, int64_t width, int64_t C) {
  __shared__ T sums[kPartialsAtOnce][kPartialColumns];
  const int64_t c = int64_t{blockIdx.x} * kPartialColumns + threadIdx.x;
  T sum = 0;
  if (c < width) {
    for (int64_t i = threadIdx.y; i < ranges; i += kPartialsAtOnce) sum += partial[i * width + c];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || c >= width) return;
  T total = 0;
  for (int i = 0; i < kPartialsAtOnce; ++i) total += sums[i][threadIdx.x];
  if (c < C) {
    first[c] += total;
  } else if (second != nullptr) {
    second[c - C] += total;
  }
}

// partial [ranges, C], or [ranges, 2, C] with a part for `second`, which may be absent all the same.
inline void add_partials(Stream& stream, Tensor first, Tensor second, const float* partial, int64_t ranges,
                         int64_t width) {
  launch(stream, add_partials_kernel<float>,
         {blocks_for(width, kPartialColumns), dim3(kPartialColumns, kPartialsAtOnce)},
         Work{bytes_for<float>(ranges * width) + bytes_of(first, first, second, second)}, first.data<float>(),
         second.data_or_null<float>(), partial, ranges, width, first.numel());
}

}  // namespace sffn::cuda
