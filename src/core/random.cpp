#include "core/random.h"

#include "core/error.h"

#include <bit>
#include <cmath>
#include <numbers>

namespace sffn {

uint64_t mix64(uint64_t x) {
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

RandomKey random_key(uint64_t seed, RandomSite site, int64_t layer, int64_t step) {
  uint64_t stream = mix64(static_cast<uint64_t>(site));
  stream = mix64(stream ^ static_cast<uint64_t>(layer));
  stream = mix64(stream ^ static_cast<uint64_t>(step));
  return {seed, stream};
}

RandomKey random_key(uint64_t seed, std::string_view tensor_name) {
  uint64_t stream = mix64(static_cast<uint64_t>(RandomSite::kInit));
  for (unsigned char c : tensor_name) stream = mix64(stream ^ c);
  return {seed, stream};
}

double random_normal(RandomKey key, uint64_t index) {
  const Random4 r = philox(key, index / 2);
  const int pair = 2 * static_cast<int>(index % 2);
  const double radius_draw = (static_cast<double>(r[pair]) + 1.0) * 0x1p-32;  // (0, 1]
  const double angle_draw = static_cast<double>(r[pair + 1]) * 0x1p-32;
  return std::sqrt(-2.0 * std::log(radius_draw)) * std::cos(2.0 * std::numbers::pi * angle_draw);
}

Permutation::Permutation(RandomKey key, uint64_t n) : key_(key), n_(n) {
  SFFN_CHECK(n >= 1, "a permutation of nothing");
  const int bits = n <= 1 ? 2 : std::bit_width(n - 1);
  half_bits_ = (bits + 1) / 2;
}

uint64_t Permutation::operator()(uint64_t position) const {
  SFFN_CHECK(position < n_, "position ", position, " of a permutation of ", n_);
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t x = position;
  do {  // the network permutes a power of four at least n; walk the cycle until the value is in range
    uint64_t left = x >> half_bits_, right = x & mask;
    for (uint64_t round = 0; round < 6; ++round) {
      const uint64_t f = mix64(mix64(key_.seed ^ (round << 56)) ^ key_.stream ^ right);
      const uint64_t next = left ^ (f & mask);
      left = right;
      right = next;
    }
    x = left << half_bits_ | right;
  } while (x >= n_);
  return x;
}

}  // namespace sffn
