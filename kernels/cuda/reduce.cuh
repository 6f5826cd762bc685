// Sums and maxima over the threads of a warp and of a block, in a fixed order. Blocks have a multiple of 32 threads, x
// only.
#pragma once
#include "kernels/cuda/unroll.cuh"

#include <cuda_runtime.h>

namespace sffn::cuda {

struct Sum {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

template <class Op, class T>
__device__ __forceinline__ T warp_reduce(T value, Op op) {
  for (int lanes = 16; lanes > 0; lanes /= 2) value = op(value, __shfl_xor_sync(0xffffffffu, value, lanes));
  return value;
}
template <class T>
__device__ __forceinline__ T warp_sum(T value) {
  return warp_reduce(value, Sum());
}

// Every thread gets the result. Ends with a barrier, so that it can be called again at once.
template <class Op, class T>
__device__ __forceinline__ T block_reduce(T value, T neutral, Op op) {
  __shared__ T of_warp[32];
  value = warp_reduce(value, op);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
  __syncthreads();
  value = warp_reduce(threadIdx.x % 32 < blockDim.x / 32 ? of_warp[threadIdx.x % 32] : neutral, op);
  __syncthreads();
  return value;
}
template <class T>
__device__ __forceinline__ T block_sum(T value) {
  return block_reduce(value, T{0}, Sum());
}

// The sums of several numbers over the block, the same in every thread. Ends with a barrier.
template <int kCount>
__device__ __forceinline__ void block_sums(float (&values)[kCount]) {
  alignas(16) __shared__ float of_warp[32][kCount];
  SFFN_UNROLL for (int i = 0; i < kCount; ++i) values[i] = warp_sum(values[i]);
  if (threadIdx.x % 32 == 0) {
    SFFN_UNROLL for (int i = 0; i < kCount; ++i) of_warp[threadIdx.x / 32][i] = values[i];
  }
  __syncthreads();
  SFFN_UNROLL for (int i = 0; i < kCount; ++i) values[i] = of_warp[0][i];
  for (unsigned w = 1; w < blockDim.x / 32; ++w) {
    SFFN_UNROLL for (int i = 0; i < kCount; ++i) values[i] += of_warp[w][i];
  }
  __syncthreads();
}

}  // namespace sffn::cuda
