// Philox in vector lanes: the same bits as core/random.h, 16 blocks of 4 at a time.
#pragma once
#include "core/random.h"

#include <cmath>
#include <cstdint>
#include <cstring>

namespace sffn::cpu {

inline constexpr int64_t kPhiloxLanes = 16;
inline constexpr int64_t kPhiloxGroup = 4 * kPhiloxLanes;

// bits[i] = random_bits(key, 4·first_block + i), i < kPhiloxGroup. The rounds of core/random.h, lane by lane.
inline void philox_group(uint32_t* bits, RandomKey key, uint64_t first_block) {
#pragma omp simd
  for (int64_t lane = 0; lane < kPhiloxLanes; ++lane) {
    const uint64_t block = first_block + static_cast<uint64_t>(lane);
    uint32_t c0 = static_cast<uint32_t>(block), c1 = static_cast<uint32_t>(block >> 32);
    uint32_t c2 = static_cast<uint32_t>(key.stream), c3 = static_cast<uint32_t>(key.stream >> 32);
    uint32_t k0 = static_cast<uint32_t>(key.seed), k1 = static_cast<uint32_t>(key.seed >> 32);
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      const uint32_t high0 = static_cast<uint32_t>(uint64_t{0xD2511F53u} * c0 >> 32), low0 = 0xD2511F53u * c0;
      const uint32_t high1 = static_cast<uint32_t>(uint64_t{0xCD9E8D57u} * c2 >> 32), low1 = 0xCD9E8D57u * c2;
      c0 = high1 ^ c1 ^ k0, c1 = low1, c2 = high0 ^ c3 ^ k1, c3 = low0;
      k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    bits[4 * lane] = c0, bits[4 * lane + 1] = c1, bits[4 * lane + 2] = c2, bits[4 * lane + 3] = c3;
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
