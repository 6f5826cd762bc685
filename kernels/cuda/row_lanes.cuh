// Kernels over the rows of a matrix, short or long: a power of two of lanes takes a row, a block takes several rows.
#pragma once
#include "kernels/cuda/launch.cuh"

namespace sffn::cuda {

inline constexpr int kRowThreads = 256;

// The shape for rows of `units` loads each, with at most `most` lanes: 32 where they reduce with lanes_sum.
inline LaunchShape shape_of_rows(int64_t rows, int64_t units, unsigned most = kRowThreads) {
  unsigned lanes = 1;
  while (lanes < most && lanes < units) lanes *= 2;
  return {blocks_for(rows, kRowThreads / lanes), dim3(lanes, kRowThreads / lanes)};
}

__device__ __forceinline__ int64_t row_of_thread() { return int64_t{blockIdx.x} * blockDim.y + threadIdx.y; }

// Σ over the lanes of a row, the same in each, in an order that their number fixes. All 32 lanes of a warp call it.
template <class T>
__device__ __forceinline__ T lanes_sum(T value) {
  for (int lanes = static_cast<int>(blockDim.x) / 2; lanes > 0; lanes /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, lanes);
  }
  return value;
}

}  // namespace sffn::cuda
