#include "core/random.h"

#include "core/error.h"
#include "support/catch.h"

#include <cmath>
#include <set>
#include <vector>

using namespace sffn;

// Kills: wrong round constants, word order or number of rounds. Vectors: Random123 distribution, kat_vectors,
// philox4x32 with 10 rounds.
TEST_CASE("Philox gives the published known answers", "[random]") {
  CHECK(philox({0, 0}, 0) == Random4{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  const uint64_t ones = ~uint64_t{0};
  CHECK(philox({ones, ones}, ones) == Random4{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox({0x299f31d0a4093822, 0x0370734413198a2e}, 0x85a308d3243f6a88) ==
        Random4{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

// Kills: an index taken modulo the block, a uniform number that can be 1.
TEST_CASE("element i of a stream is word i mod 4 of block i / 4, and uniform numbers are below 1", "[random]") {
  const RandomKey key{3, 4};
  for (uint64_t i = 0; i < 40; ++i) CHECK(random_bits(key, i) == philox(key, i / 4)[i % 4]);
  CHECK(uniform_from_bits(0) == 0);
  CHECK(uniform_from_bits(0xffffffff) == 1 - 0x1p-24f);
}

// Kills: a key that ignores one of its parts.
TEST_CASE("seed, site, layer, step and name each give another stream", "[random]") {
  std::set<std::pair<uint64_t, uint64_t>> keys;
  const auto add = [&](RandomKey key) { keys.insert({key.seed, key.stream}); };
  for (uint64_t seed : {1, 2}) {
    for (auto site : {RandomSite::kFfnDropout, RandomSite::kEmbeddingDropout}) {
      for (int64_t layer : {0, 1}) {
        for (int64_t step : {0, 1}) add(random_key(seed, site, layer, step));
      }
    }
  }
  for (const char* name : {"a", "b", "ab", "ba"}) add(random_key(1, name));
  CHECK(keys.size() == 16 + 4);
}

// Kills: a Feistel half that is not undone, cycle walking that stops early, sizes that are not powers of four.
TEST_CASE("a permutation visits every element once at every size", "[random]") {
  for (uint64_t n : {1, 2, 3, 4, 5, 31, 33, 64, 65, 127, 1000, 4097}) {
    const Permutation permutation({9, n}, n);
    std::vector<int> visits(n);
    for (uint64_t i = 0; i < n; ++i) {
      REQUIRE(permutation(i) < n);
      ++visits[permutation(i)];
    }
    CHECK(visits == std::vector<int>(n, 1));
  }
  CHECK_THROWS_AS(Permutation({9, 9}, 5)(5), RunError);
  CHECK_THROWS_AS(Permutation({9, 9}, 0), RunError);
}

// Kills: a permutation that ignores its key or is the identity.
TEST_CASE("permutations of different keys differ and leave few elements in place", "[random]") {
  const Permutation one({1, 0}, 1000), other({2, 0}, 1000);
  int fixed = 0, equal = 0;
  for (uint64_t i = 0; i < 1000; ++i) fixed += one(i) == i, equal += one(i) == other(i);
  CHECK(fixed < 10);
  CHECK(equal < 10);
}

// Kills: the logarithm of 0, one of the pair's outputs repeated, a wrong radius.
TEST_CASE("normal numbers have mean 0, variance 1, kurtosis 3 and independent neighbours", "[random]") {
  const int n = 200'000;
  double sum = 0, square = 0, fourth = 0, neighbours = 0, before = 0;
  for (int i = 0; i < n; ++i) {
    const double x = random_normal({5, 5}, static_cast<uint64_t>(i));
    REQUIRE(std::isfinite(x));
    sum += x, square += x * x, fourth += x * x * x * x, neighbours += x * before;
    before = x;
  }
  CHECK(std::abs(sum / n) < 4 / std::sqrt(n));
  CHECK(std::abs(square / n - 1) < 4 * std::sqrt(2.0 / n));
  CHECK(std::abs(fourth / n - 3) < 4 * std::sqrt(96.0 / n));
  CHECK(std::abs(neighbours / n) < 4 / std::sqrt(n));
}
