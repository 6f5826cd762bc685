// Normal numbers on the device, those of core/random.h to the rounding of double logarithm and cosine.
#pragma once
#include "core/random.h"

#include <cuda_runtime.h>

#include <cmath>

namespace sffn::cuda {

__device__ __forceinline__ double normal_at(RandomKey key, uint64_t index) {
  constexpr double kPi = 3.14159265358979323846;
  const Random4 r = philox(key, index / 2);
  const int pair = 2 * static_cast<int>(index % 2);
  const double radius_draw = (static_cast<double>(r[pair]) + 1.0) * 0x1p-32;  // (0, 1]
  const double angle_draw = static_cast<double>(r[pair + 1]) * 0x1p-32;
  return sqrt(-2.0 * log(radius_draw)) * cos(2.0 * kPi * angle_draw);
}

}  // namespace sffn::cuda
