// What dropout draws, on the device: the bits of core/random.h.
#pragma once
#include "kernels/cuda/unroll.cuh"
#include "kernels/types.h"

#include <cuda_runtime.h>

#include <cmath>

namespace sffn::cuda {

// bits[i] = random_bits(key, first + i), i < kCount <= 4: one Philox block, or two where they meet.
template <int kCount>
__device__ __forceinline__ void random_bits_from(uint32_t (&bits)[kCount], RandomKey key, uint64_t first) {
  static_assert(kCount >= 1 && kCount <= 4);
  const unsigned skip = first % 4;
  const Random4 block = philox(key, first / 4);
  uint32_t all[7] = {block[0], block[1], block[2], block[3], 0, 0, 0};
  if (skip + kCount > 4) {
    const Random4 next = philox(key, first / 4 + 1);
    SFFN_UNROLL for (int i = 0; i < 3; ++i) all[4 + i] = next[i];
  }
  SFFN_UNROLL for (int i = 0; i < 5; ++i) all[i] = (skip & 2) != 0 ? all[i + 2] : all[i];
  SFFN_UNROLL for (int i = 0; i < kCount; ++i) bits[i] = (skip & 1) != 0 ? all[i + 1] : all[i];
}

// A Dropout as launches hand it over; its clock is read where the kernel runs.
struct DropoutSite {
  Draws draws;
  uint32_t threshold;  // a uniform draw is below the probability exactly where its 24 bits are below this
  float kept;

  explicit DropoutSite(const Dropout& d)
      : draws(d.draws),
        threshold(static_cast<uint32_t>(std::ceil(d.probability * 0x1p24))),
        kept(static_cast<float>(1 / (1 - d.probability))) {}
};

// The same in a kernel: element e is dropped when random_bits(key, first + e) >> 8 < threshold, else multiplied by
// `kept`.
struct DropoutMask {
  RandomKey key;
  uint64_t first;
  uint32_t threshold;
  float kept;

  __device__ explicit DropoutMask(const DropoutSite& site) : threshold(site.threshold), kept(site.kept) {
    const Draws draws = site.draws.now();
    key = draws.key;
    first = static_cast<uint64_t>(draws.first_index);
  }

  __device__ bool drops(uint32_t bits) const { return bits >> 8 < threshold; }
  // 0 or `kept` of kCount consecutive elements.
  template <int kCount>
  __device__ __forceinline__ void factors(float (&factor)[kCount], uint64_t element) const {
    uint32_t bits[kCount];
    random_bits_from(bits, key, first + element);
    SFFN_UNROLL for (int i = 0; i < kCount; ++i) factor[i] = drops(bits[i]) ? 0.0f : kept;
  }
};

}  // namespace sffn::cuda
