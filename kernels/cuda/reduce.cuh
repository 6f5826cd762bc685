// Sums and maxima over the threads of a warp and of a block, in a fixed order. Blocks have a multiple of 32 threads, x
// only.
#pragma once
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

}  // namespace sffn::cuda
