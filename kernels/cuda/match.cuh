// Lanes of a warp that hold the same block.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace sffn::cuda {

// Bits that tell `count` blocks apart.
inline int bits_of(int64_t count) {
  int bits = 0;
  while ((int64_t{1} << bits) < count) ++bits;
  return bits;
}

// The lanes whose block is this lane's, negative ones counting as one. Called by the whole warp.
__device__ __forceinline__ unsigned lanes_of_block(int32_t block, int bits) {
  const unsigned chosen = __ballot_sync(0xffffffffu, block >= 0);
  unsigned lanes = block >= 0 ? chosen : ~chosen;
  for (int bit = 0; bit < bits; ++bit) {
    const bool set = block >= 0 && (block >> bit & 1) != 0;
    const unsigned with_bit = __ballot_sync(0xffffffffu, set);
    lanes &= set ? with_bit : ~with_bit;
  }
  return lanes;
}

__device__ __forceinline__ unsigned lanes_below() { return (1u << threadIdx.x % 32) - 1; }

}  // namespace sffn::cuda
