// Scores as integers in the same order.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace sffn::cuda {

inline constexpr uint32_t kNanKey = 0xffffffffu;

// -0 is +0, every NaN is above infinity. No score has key 0, which stands for none.
__device__ __forceinline__ uint32_t score_key(float score) {
  if (score != score) return kNanKey;
  const uint32_t bits = __float_as_uint(score + 0.0f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

}  // namespace sffn::cuda
