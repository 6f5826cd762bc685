// Counter-based random numbers: element `index` of the stream (seed, site, layer, step) is a pure function of these,
// so every backend and any number of ranks and threads draw the same. Philox4x32-10 (Salmon et al., SC 2011).
#pragma once
#include "core/error.h"

#include <array>
#include <bit>
#include <cstdint>
#include <string_view>

namespace sffn {

// What the numbers are for. Values are part of the checkpoint contract (resume draws the same): never renumber.
enum class RandomSite : uint32_t {
  kInit = 1,
  kDataOrder = 2,
  kDataMix = 3,
  kEmbeddingDropout = 4,
  kAttentionDropout = 5,
  kAttentionOutDropout = 6,
  kFfnDropout = 7,
  kSampling = 8,
  kRandomTokens = 9,
  kRouterNoise = 10,
  kRouterJitter = 11,
  kExpertDropout = 12,
  kHashBlocks = 13,
};

struct RandomKey {
  uint64_t seed = 0;
  uint64_t stream = 0;
};

// splitmix64 finaliser: a bijection that scatters its input
constexpr uint64_t mix64(uint64_t x) {
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}
// Of a site and layer, whatever the step; key_at_step makes it that of a step.
constexpr RandomKey random_key(uint64_t seed, RandomSite site, int64_t layer) {
  return {seed, mix64(mix64(static_cast<uint64_t>(site)) ^ static_cast<uint64_t>(layer))};
}
constexpr RandomKey key_at_step(RandomKey key, int64_t step) {
  return {key.seed, mix64(key.stream ^ static_cast<uint64_t>(step))};
}
constexpr RandomKey random_key(uint64_t seed, RandomSite site, int64_t layer, int64_t step) {
  return key_at_step(random_key(seed, site, layer), step);
}
RandomKey random_key(uint64_t seed, std::string_view tensor_name);  // initialisation, by name

using Random4 = std::array<uint32_t, 4>;

constexpr Random4 philox(RandomKey key, uint64_t block) {
  uint32_t c0 = static_cast<uint32_t>(block), c1 = static_cast<uint32_t>(block >> 32);
  uint32_t c2 = static_cast<uint32_t>(key.stream), c3 = static_cast<uint32_t>(key.stream >> 32);
  uint32_t k0 = static_cast<uint32_t>(key.seed), k1 = static_cast<uint32_t>(key.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0, n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c0 = n0, c1 = static_cast<uint32_t>(p1), c2 = n2, c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
  }
  return {c0, c1, c2, c3};
}

// Element `index` as 32 random bits, and as a uniform number in [0, 1) with 24 bits.
constexpr uint32_t random_bits(RandomKey key, uint64_t index) { return philox(key, index / 4)[index % 4]; }
constexpr float uniform_from_bits(uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }
constexpr float random_uniform(RandomKey key, uint64_t index) { return uniform_from_bits(random_bits(key, index)); }

// Element `index` of a standard normal stream (Box-Muller on two 32-bit draws of one Philox block, in double).
double random_normal(RandomKey key, uint64_t index);

// The bits that x takes: 0 for 0. nvcc takes std::bit_width for 0 in code of a GPU, where GCC's builtin is unknown.
constexpr int bits_of(uint64_t x) {
#ifdef __CUDA_ARCH__
  return 64 - __clzll(static_cast<long long>(x));
#else
  return std::bit_width(x);
#endif
}

// A keyed permutation of [0, n): position -> element, without a table (Feistel network and cycle walking).
class Permutation {
 public:
  // n >= 1
  constexpr Permutation(RandomKey key, uint64_t n)
      : key_(key), n_(n), half_bits_(((n <= 1 ? 2 : bits_of(n - 1)) + 1) / 2) {
#ifndef __CUDA_ARCH__  // a GPU throws nothing
    SFFN_CHECK(n >= 1, "a permutation of nothing");
#endif
  }
  // position < n. The network permutes a power of four at least n; the cycle is walked until the value is in range.
  constexpr uint64_t operator()(uint64_t position) const {
#ifndef __CUDA_ARCH__
    SFFN_CHECK(position < n_, "position ", position, " of a permutation of ", n_);
#endif
    uint64_t x = position;
    do {
      x = network(x);
    } while (x >= n_);
    return x;
  }

 private:
  constexpr uint64_t network(uint64_t x) const {
    const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
    uint64_t left = x >> half_bits_, right = x & mask;
    for (uint64_t round = 0; round < 6; ++round) {
      const uint64_t f = mix64(mix64(key_.seed ^ (round << 56)) ^ key_.stream ^ right);
      const uint64_t next = left ^ (f & mask);
      left = right;
      right = next;
    }
    return left << half_bits_ | right;
  }

  RandomKey key_;
  uint64_t n_;
  int half_bits_;
};

}  // namespace sffn
