// Sums of the values of earlier threads of a warp or block.
#pragma once
#include <cuda_runtime.h>

namespace sffn::cuda {

// The sum over this lane and those below it.
template <class T>
__device__ __forceinline__ T warp_inclusive_scan(T value) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int delta = 1; delta < 32; delta *= 2) {
    const T below = __shfl_up_sync(0xffffffffu, value, static_cast<unsigned>(delta));
    if (lane >= delta) value += below;
  }
  return value;
}

// The sum over the threads before this one; `total`: over all. Ends with a barrier, so that it can be called again at
// once.
template <class T>
__device__ __forceinline__ T block_exclusive_scan(T value, T& total) {
  __shared__ T of_warp[32];
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const T inclusive = warp_inclusive_scan(value);
  if (lane == 31) of_warp[warp] = inclusive;
  __syncthreads();
  const T sums = warp_inclusive_scan(lane < static_cast<int>(blockDim.x / 32) ? of_warp[lane] : T{0});
  const T before = __shfl_sync(0xffffffffu, sums, warp > 0 ? warp - 1 : 0);
  total = __shfl_sync(0xffffffffu, sums, 31);
  __syncthreads();
  return (warp > 0 ? before : T{0}) + inclusive - value;
}

}  // namespace sffn::cuda
