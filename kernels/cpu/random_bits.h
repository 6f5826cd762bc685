// Philox in vector lanes: the same bits as core/random.h, 16 blocks of 4 at a time.
#pragma once
#include "core/random.h"

#include <cmath>
#include <cstdint>
#include <cstring>

namespace sffn::cpu {

inline constexpr int64_t kPhiloxLanes = 16;
inline constexpr int64_t kPhiloxGroup = 4 * kPhiloxLanes;

// bits[i] = random_bits(key, 4·first_block + i), i < kPhiloxGroup.
inline void philox_group(uint32_t* bits, RandomKey key, uint64_t first_block) {
#pragma omp simd
  for (int64_t lane = 0; lane < kPhiloxLanes; ++lane) {
    const Random4 block = philox(key, first_block + static_cast<uint64_t>(lane));
    for (int64_t j = 0; j < 4; ++j) bits[4 * lane + j] = block[static_cast<size_t>(j)];
  }
}

// bits[i] = random_bits(key, first + i), i < count.
inline void fill_random_bits(uint32_t* bits, RandomKey key, uint64_t first, int64_t count) {
  uint32_t group[kPhiloxGroup];
  auto skip = static_cast<int64_t>(first % 4);
  for (uint64_t block = first / 4; count > 0; block += kPhiloxLanes) {
    if (skip == 0 && count >= kPhiloxGroup) {
      philox_group(bits, key, block);
      bits += kPhiloxGroup, count -= kPhiloxGroup;
      continue;
    }
    philox_group(group, key, block);
    const int64_t taken = count < kPhiloxGroup - skip ? count : kPhiloxGroup - skip;
    std::memcpy(bits, group + skip, static_cast<size_t>(taken) * sizeof(uint32_t));
    bits += taken, count -= taken, skip = 0;
  }
}

// uniform_from_bits(bits) < probability exactly when (bits >> 8) < drop_threshold(probability).
inline uint32_t drop_threshold(double probability) { return static_cast<uint32_t>(std::ceil(probability * 0x1p24)); }

}  // namespace sffn::cpu
