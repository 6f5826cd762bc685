#include "kernels/ops.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/complex_step.h"
#include "support/host_tensor.h"
#include "support/tolerances.h"

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

using namespace sffn;
using namespace sffn::test;

namespace {

constexpr int64_t kSizes[] = {0, 1, 31, 33, 127, 200'000};
constexpr DType kFloating[] = {DType::kF32, DType::kBF16, DType::kF64, DType::kC128};

std::vector<double> drawn(int64_t n, uint64_t stream) { return random_values(static_cast<size_t>(n), stream); }

}  // namespace

// Kills: a lost remainder or chunk, bytes counted as elements.
TEST_CASE("filling with zero reaches every element of every dtype and no other", "[ops][elementwise]") {
  Stream stream(cpu_runtime());
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kI32, DType::kF64, DType::kC128}) {
    for (int64_t n : kSizes) {
      const HostTensor x(dtype, {n + 2}, std::vector<double>(static_cast<size_t>(n + 2), 7));
      ops::fill_zero(stream, x.tensor().slice(1, n));
      std::vector<double> expected(static_cast<size_t>(n + 2));
      expected.front() = expected.back() = 7;
      CHECK(x.values() == expected);
    }
  }
}

// Kills: truncation to bf16, a detour through a narrower dtype, sizes of one dtype used for the other.
TEST_CASE("copying converts between floating dtypes and rounds to nearest even", "[ops][elementwise]") {
  Stream stream(cpu_runtime());
  for (DType from : kFloating) {
    for (DType to : kFloating) {
      for (int64_t n : kSizes) {
        if (from == DType::kC128 && to != DType::kC128) continue;
        const HostTensor x(from, {n}, drawn(n, 1)), y(to, {n});
        ops::copy(stream, y, x);
        CHECK(y.bytes() == x.as(to).bytes());
      }
    }
  }
  const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  const HostTensor special(DType::kF32, {40}, [&] {
    std::vector<double> values(40, 1 + 0x1p-8);  // halfway between two bfloat16 numbers, the even one below
    values[3] = nan, values[20] = -infinity, values[39] = 1 + 3 * 0x1p-8;
    return values;
  }());
  const HostTensor low(DType::kBF16, {40});
  ops::copy(stream, low, special);
  CHECK(low.values()[0] == 1);
  CHECK(std::isnan(low.values()[3]));
  CHECK(low.values()[20] == -infinity);
  CHECK(low.values()[39] == 1 + 0x1p-6);
}

// Kills: numbers converted to indices, indices that pass through f32.
TEST_CASE("copying indices keeps them, and turns them into nothing else", "[ops][elementwise]") {
  Stream stream(cpu_runtime());
  const HostTensor x = HostTensor::indices({-1, 0, 2'147'483'647, 16'777'217}), y(DType::kI32, {4}),
                   f(DType::kF32, {4});
  ops::copy(stream, y, x);
  CHECK(y.bytes() == x.bytes());
  CHECK_THROWS_AS(ops::copy(stream, f, x), RunError);
  CHECK_THROWS_AS(ops::copy(stream, y, f), RunError);
}

// Kills: overwriting where the sum is asked for, adding rounded halves, reading one operand with the other's type.
TEST_CASE("adding rounds the sum once to the dtype of the result", "[ops][elementwise]") {
  constexpr std::pair<DType, DType> kResultAndAdded[] = {{DType::kF32, DType::kF32},  {DType::kBF16, DType::kBF16},
                                                         {DType::kF64, DType::kF64},  {DType::kC128, DType::kC128},
                                                         {DType::kBF16, DType::kF32}, {DType::kF32, DType::kBF16}};
  Stream stream(cpu_runtime());
  for (const auto& [result, dtype] : kResultAndAdded) {
    for (int64_t n : kSizes) {
      const HostTensor x(dtype, {n}, drawn(n, 1)), y(result, {n}, drawn(n, 2));
      std::vector<double> expected = y.values(), added = x.values();
      // The sum is made in float where a float takes part: exact in double, it is rounded there first.
      const bool in_float = result == DType::kF32 || result == DType::kBF16;
      for (size_t i = 0; i < expected.size(); ++i) {
        expected[i] += added[i];
        if (in_float) expected[i] = static_cast<float>(expected[i]);
      }
      ops::add(stream, y, x);
      CHECK(y.bytes() == HostTensor(result, {n}, expected).bytes());
    }
  }
}

// Kills: overwriting out, a lost row block or column strip, summing bf16 in bf16.
TEST_CASE("column sums add to what is there, exactly on integers and within bounds otherwise", "[ops][elementwise]") {
  Stream stream(cpu_runtime());
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF64}) {
    const DType acc = accumulate_type(dtype);
    for (int64_t rows : {0, 1, 31, 130, 8300}) {
      for (int64_t columns : {1, 31, 33, 127, 264, 300}) {
        if (rows > 130 && columns > 33 && columns != 264) continue;
        const auto n = static_cast<size_t>(rows * columns), c = static_cast<size_t>(columns);
        const HostTensor x(dtype, {rows, columns}, integer_values(n, 1, 9)),
            out(acc, {columns}, integer_values(c, 2, 9));
        std::vector<double> expected = out.values(), values = x.values();
        for (size_t i = 0; i < n; ++i) expected[i % c] += values[i];
        ops::column_sum(stream, out, x);
        CHECK(out.values() == expected);
      }
    }
    const HostTensor x(dtype, {3000, 33}, drawn(3000 * 33, 3)), out(acc, {33});
    const HostTensor exact(DType::kF64, {33});
    ops::column_sum(stream, out, x);
    ops::column_sum(stream, exact, x.as(DType::kF64));
    const std::vector<double> expected = exact.values();
    check_within(out.values(), expected,
                 [&](size_t i) { return tolerances::sum_of_products(3000, 3000, expected[i], acc); });
  }
}

// Kills: sums per thread.
TEST_CASE("column sums give the same bits for any number of threads", "[ops][elementwise]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  const HostTensor x(dtype, {1000, 150}, drawn(150'000, 4));
  check_same_on_any_threads([&] {
    const HostTensor out(DType::kF32, {150});
    Stream stream(cpu_runtime());
    ops::column_sum(stream, out, x);
    return out.bytes();
  });
}
