#include "kernels/cpu/random_bits.h"
#include "kernels/ops.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/complex_step.h"
#include "support/host_tensor.h"
#include "support/tolerances.h"

#include <cmath>
#include <limits>
#include <vector>

using namespace sffn;
using namespace sffn::test;

namespace {

constexpr RandomKey kKey{11, 12};

HostTensor dropped(DType dtype, int64_t n, const Dropout& d) {
  HostTensor x(dtype, {n}, random_values(static_cast<size_t>(n), 1));
  Stream stream(cpu_runtime());
  ops::dropout(stream, x, d);
  return x;
}

}  // namespace

// Kills: a wrong lane order, a first index that is not a multiple of four, a lost remainder.
TEST_CASE("bits drawn in lanes are the bits of the counters", "[ops][random]") {
  for (uint64_t first : {0ull, 1ull, 2ull, 3ull, 63ull, 1003ull, (1ull << 34) - 5}) {
    for (int64_t count : {0, 1, 3, 31, 33, 64, 127, 300}) {
      std::vector<uint32_t> bits(static_cast<size_t>(count) + 1, 7), expected(bits);
      for (size_t i = 0; i < static_cast<size_t>(count); ++i) expected[i] = random_bits(kKey, first + i);
      cpu::fill_random_bits(bits.data(), kKey, first, count);
      CHECK(bits == expected);
    }
  }
}

// Kills: a threshold rounded to float, or compared with <=.
TEST_CASE("the integer threshold decides as the uniform number does", "[ops][random]") {
  for (double p : {0.0, 0.1, 1.0 / 3, 0.5, 0.25, 0x1p-24, 0.999999999}) {
    const uint32_t threshold = cpu::drop_threshold(p);
    for (uint32_t near : {threshold, uint32_t{1} << 23, uint32_t{0}}) {
      for (uint32_t top = near > 2 ? near - 2 : 0; top < near + 3 && top < 1u << 24; ++top) {
        const uint32_t bits = top << 8 | 0x5a;
        CHECK((bits >> 8 < threshold) == (static_cast<double>(uniform_from_bits(bits)) < p));
      }
    }
  }
}

// Kills: keeping what should be dropped, scaling by 1 - p, ignoring first_index.
TEST_CASE("dropout in f32 and bf16 drops what the reference drops and scales the rest alike", "[ops][dropout]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  const double p = GENERATE(0.0, 0.1, 1.0 / 3, 0.5);
  for (int64_t n : {0, 1, 31, 33, 127, 20001}) {
    for (int64_t first : {0, 1003}) {
      const Dropout d{p, kKey, first};
      const HostTensor low = dropped(dtype, n, d);
      const HostTensor x = HostTensor(dtype, {n}, random_values(static_cast<size_t>(n), 1)).as(DType::kF64);
      Stream stream(cpu_runtime());
      ops::dropout(stream, x, d);
      const auto expected = x.values();
      check_within(low.values(), expected, [&](size_t i) {
        return expected[i] == 0 ? 0 : tolerances::elementwise(2, std::abs(expected[i]), expected[i], dtype);
      });
    }
  }
}

// Kills: a rate of 1 - p, or correlated bits.
TEST_CASE("the dropped share is the probability within four standard deviations", "[ops][dropout]") {
  const int64_t n = 200'000;
  for (double p : {0.1, 0.5}) {
    int64_t zeros = 0;
    for (double x : dropped(DType::kF32, n, {p, kKey, 0}).values()) zeros += x == 0;
    CHECK(std::abs(static_cast<double>(zeros) - p * n) < 4 * std::sqrt(p * (1 - p) * n));
  }
}

// Kills: counters that restart in each chunk or rank.
TEST_CASE("dropping a tensor in pieces by first_index equals dropping it whole", "[ops][dropout]") {
  const auto whole = dropped(DType::kF32, 1000, {0.3, kKey, 500}).values();
  HostTensor x(DType::kF32, {1000}, random_values(1000, 1));
  Stream stream(cpu_runtime());
  for (int64_t first : {0, 333}) {
    const int64_t count = first == 0 ? 333 : 667;
    ops::dropout(stream, x.tensor().slice(first, count), Dropout{0.3, kKey, 500 + first});
  }
  CHECK(x.values() == whole);
}

// Kills: multiplying by 0 where the value should be dropped.
TEST_CASE("a dropped value is zero whatever it was", "[ops][dropout]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16, DType::kF64);
  HostTensor x(dtype, {64}, std::vector<double>(64, std::numeric_limits<double>::infinity()));
  Stream stream(cpu_runtime());
  ops::dropout(stream, x, Dropout{0.5, kKey, 0});
  for (double value : x.values()) CHECK_FALSE(std::isnan(value));
}

// Kills: random state of a thread.
TEST_CASE("dropout gives the same bits for any number of threads", "[ops][dropout]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  check_same_on_any_threads([&] { return dropped(dtype, 100'003, {0.2, kKey, 77}).bytes(); });
}

// Kills: a clock that is not read, a step mixed into the key where it is there already, sequences that draw alike.
TEST_CASE("with a clock, dropout draws what its step and sequence draw without one", "[ops][dropout]") {
  constexpr int64_t kPerSequence = 37;
  const RandomKey key = random_key(3, RandomSite::kFfnDropout, 2);
  const PassClock clock{.step = 41, .first_sequence = 6};
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF64}) {
    HostTensor clocked(dtype, {129}, random_values(129, 4)), told = clocked;
    Stream stream(cpu_runtime());
    ops::dropout(stream, clocked, Dropout{0.4, {key, 2, &clock, kPerSequence}});
    ops::dropout(stream, told, Dropout{0.4, {key_at_step(key, 41), 2 + 6 * kPerSequence}});
    CHECK(clocked.bytes() == told.bytes());
  }
}
