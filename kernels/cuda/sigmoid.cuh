// σ(x), with its relative accuracy on the left.
#pragma once
#include <cuda_runtime.h>

namespace sffn::cuda {

__device__ __forceinline__ float sigmoid(float x) {
  const float e = expf(-fabsf(x));
  return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

}  // namespace sffn::cuda
