#include "core/stream.h"
#include "kernels/ops.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/complex_step.h"
#include "support/error_of.h"
#include "support/host_tensor.h"
#include "support/tolerances.h"

#include <array>
#include <cmath>
#include <utility>

using namespace sffn;
using namespace sffn::test;

namespace {

constexpr DType kF32 = DType::kF32, kF64 = DType::kF64;

// Some choices dropped, some blocks chosen by many tokens.
HostTensor some_blocks(int64_t tokens, int64_t per_token, int64_t blocks) {
  HostTensor t(DType::kI32, {tokens, per_token});
  int32_t* ids = t.tensor().data<int32_t>();
  for (int64_t c = 0; c < tokens * per_token; ++c) {
    ids[c] = c % 6 == 5 ? -1 : static_cast<int32_t>(c * c % 11 % blocks);
  }
  return t;
}

HostTensor numbers_of(double applied) {
  std::vector<double> numbers(update::kCount, 0);
  numbers[update::kApplied] = applied;
  return HostTensor(kF64, {update::kCount}, numbers);
}

}  // namespace

// Kills: a group's tokens miscounted, dropped choices that count, "+=" for "=".
TEST_CASE("block weight sums are sums over a group's choices of a block", "[ops][block_values]") {
  const HostTensor blocks(DType::kI32, {4, 2}, {0, 2, 2, -1, 1, 2, -1, -1});
  for (DType dtype : {kF32, kF64}) {
    const HostTensor weights(dtype, {4, 2}, {1, 2, 4, 8, 16, 32, 64, 128});
    HostTensor one(dtype, {1, 3}, {9, 9, 9}), two(dtype, {2, 3}, std::vector<double>(6, 9));
    Stream stream(cpu_runtime());
    ops::block_weight_sums(stream, one, weights, blocks);
    ops::block_weight_sums(stream, two, weights, blocks);
    CHECK(one.values() == std::vector<double>{1, 16, 38});
    CHECK(two.values() == std::vector<double>{1, 0, 6, 0, 16, 32});
  }
}

// Kills: an index of group, token or choice off by one, in either loop.
TEST_CASE("block weight sums and block values in f32 are the reference at every size", "[ops][block_values]") {
  for (int64_t groups : {1, 3}) {
    for (int64_t rows : {0, 1, 31, 33, 127}) {
      for (int64_t blocks : {1, 31, 33, 127}) {
        const int64_t tokens = groups * rows, per_token = 3;
        const auto choices = static_cast<size_t>(tokens * per_token), cells = static_cast<size_t>(groups * blocks);
        const HostTensor ids = some_blocks(tokens, per_token, blocks);
        const HostTensor x(kF32, {tokens, per_token}, integer_values(choices, 1, 50));
        const HostTensor of_block(kF32, {groups, blocks}, integer_values(cells, 2, 50));
        HostTensor sums(kF32, {groups, blocks}, integer_values(cells, 3, 9)), exact_sums = sums.as(kF64);
        HostTensor values = x, exact_values = x.as(kF64);
        Stream stream(cpu_runtime());
        ops::block_weight_sums(stream, sums, x, ids);
        ops::block_weight_sums(stream, exact_sums, x.as(kF64), ids);
        CHECK(sums.values() == exact_sums.values());
        ops::add_block_values(stream, values, of_block, ids);
        ops::add_block_values(stream, exact_values, of_block.as(kF64), ids);
        CHECK(values.values() == exact_values.values());
      }
    }
  }
}

// Kills: a tile of choices, or one of many blocks, left out.
TEST_CASE("block weight sums over many blocks and choices are exact on integers", "[ops][block_values]") {
  for (auto [tokens, blocks] : {std::pair<int64_t, int64_t>{2000, 1408}, {2000, 1409}, {6000, 2000}, {6000, 31}}) {
    const HostTensor weights(kF32, {tokens, 3}, integer_values(static_cast<size_t>(tokens * 3), 1, 50));
    HostTensor ids(DType::kI32, {tokens, 3});
    for (int64_t c = 0; c < tokens * 3; ++c) {
      ids.tensor().data<int32_t>()[c] = c % 6 == 5 ? -1 : static_cast<int32_t>(c * c % 7919 % blocks);
    }
    HostTensor sums(kF32, {2, blocks}), exact(kF64, {2, blocks});
    Stream stream(cpu_runtime());
    ops::block_weight_sums(stream, sums, weights, ids);
    ops::block_weight_sums(stream, exact, weights.as(kF64), ids);
    CHECK(sums.values() == exact.values());
  }
}

// Kills: a gradient of another group or block, or for a dropped choice.
TEST_CASE("add_block_values is the gradient of block_weight_sums", "[ops][block_values]") {
  for (auto [groups, rows, blocks] : {std::array<int64_t, 3>{3, 4, 5}, {1, 7, 3}, {2, 1, 1}}) {
    const int64_t tokens = groups * rows;
    const HostTensor ids = some_blocks(tokens, 2, blocks);
    const auto weights = random_values(static_cast<size_t>(tokens * 2), 1);
    const auto dsums = random_values(static_cast<size_t>(groups * blocks), 2);
    const auto sums_shape = Shape{groups, blocks};
    const auto expected = complex_step_gradient(weights, dsums, [&, tokens = tokens](std::vector<Complex> w) {
      std::vector<Complex> sums(dsums.size());
      Stream stream(cpu_runtime());
      ops::block_weight_sums(stream, Tensor(sums.data(), sums_shape, DType::kC128, Device::cpu()),
                             Tensor(w.data(), {tokens, 2}, DType::kC128, Device::cpu()), ids);
      return sums;
    });
    HostTensor gradient(kF64, {tokens, 2}, std::vector<double>(weights.size(), 0.0));
    Stream stream(cpu_runtime());
    ops::add_block_values(stream, gradient, HostTensor(kF64, sums_shape, dsums), ids);
    check_close(gradient.values(), expected, 1e-12);
  }
}

// Kills: a sum in one float, which stops growing.
TEST_CASE("block weight sums of many tokens keep f32 accuracy", "[ops][block_values]") {
  const int64_t tokens = 100'000;
  const HostTensor weights(kF32, {tokens, 1}, std::vector<double>(tokens, 0.7));
  const HostTensor blocks(DType::kI32, {tokens, 1});
  HostTensor sums(kF32, {1, 2});
  Stream stream(cpu_runtime());
  ops::block_weight_sums(stream, sums, weights, blocks);
  const double exact = static_cast<double>(0.7f) * tokens;
  CHECK(std::abs(sums.values()[0] - exact) <= exact * 0x1p-24);
  CHECK(sums.values()[1] == 0);
}

// Kills: an id read or written outside the table.
TEST_CASE("sums and values of a block out of range are errors that name its place", "[ops][block_values][cpu]") {
  const HostTensor bad(DType::kI32, {3, 2}, {0, 1, 2, -1, 0, 3}), values(kF32, {3, 2}), table(kF32, {1, 3});
  Stream s(cpu_runtime());
  const char* what = "blocks[2, 1] is 3; expected -1 to 2";
  CHECK(error_of([&] { ops::block_weight_sums(s, table, values, bad); }).what == cat("block_weight_sums: ", what));
  CHECK(error_of([&] { ops::add_block_values(s, values, table, bad); }).what == cat("add_block_values: ", what));
}

// Kills: Σ for the mean, a missing weight, "=" for "+=", a mean of nothing.
TEST_CASE("mean_square adds the weighted mean of squares", "[ops][mean_square]") {
  for (DType dtype : {kF32, kF64}) {
    HostTensor loss(dtype, {1}, {7});
    Stream stream(cpu_runtime());
    ops::mean_square(stream, loss, HostTensor(dtype, {2}, {3, -4}), 2);
    CHECK(loss.values()[0] == 7 + 25);
    ops::mean_square(stream, loss, HostTensor(dtype, {0}), 2);
    CHECK(loss.values()[0] == 7 + 25);
  }
  for (int64_t n : {1, 31, 33, 127, 100'000}) {
    const HostTensor x(kF32, {n}, random_values(static_cast<size_t>(n), 1, 10));
    HostTensor loss(kF32, {1}, {0}), exact(kF64, {1}, {0});
    Stream stream(cpu_runtime());
    ops::mean_square(stream, loss, x, 0.3);
    ops::mean_square(stream, exact, x.as(kF64), 0.3);
    CHECK(std::abs(loss.values()[0] - exact.values()[0]) <= 2 * 0x1p-24 * exact.values()[0]);
  }
}

// Kills: a modulus where a square is meant.
TEST_CASE("the derivative of mean_square is 2 weight x / n", "[ops][mean_square]") {
  const auto x = random_values(5, 1);
  const auto gradient = complex_step_gradient(x, {1}, [](std::vector<Complex> z) {
    std::vector<Complex> loss(1);
    Stream stream(cpu_runtime());
    ops::mean_square(stream, Tensor(loss.data(), {1}, DType::kC128, Device::cpu()),
                     Tensor(z.data(), {5}, DType::kC128, Device::cpu()), 0.3);
    return loss;
  });
  std::vector<double> expected;
  for (double value : x) expected.push_back(2 * 0.3 * value / 5);
  check_close(gradient, expected, 1e-12);
}

// Kills: the sign of the move, a mean made with a rounded 1/B, a move in a step that was not applied.
TEST_CASE("the balance bias moves by the rate towards the mean load, and not at the mean", "[ops][balance_bias]") {
  for (DType dtype : {kF32, kF64}) {
    HostTensor bias(dtype, {4}, {1, 1, 1, 1});
    Stream stream(cpu_runtime());
    ops::update_balance_bias(stream, bias, HostTensor(kF64, {4}, {0, 10, 5, 5}), numbers_of(0), 0.25);
    CHECK(bias.values() == std::vector<double>{1, 1, 1, 1});
    ops::update_balance_bias(stream, bias, HostTensor(kF64, {4}, {0, 10, 5, 5}), numbers_of(1), 0.25);
    CHECK(bias.values() == std::vector<double>{1.25, 0.75, 1, 1});
  }
  for (int64_t blocks : {1, 3, 7, 49, 127, 1000}) {
    HostTensor bias(kF32, {blocks}, std::vector<double>(static_cast<size_t>(blocks), 0.5));
    const HostTensor before = bias;
    Stream stream(cpu_runtime());
    ops::update_balance_bias(stream, bias,
                             HostTensor(kF64, {blocks}, std::vector<double>(static_cast<size_t>(blocks), 1e12 + 7)),
                             numbers_of(1), 0.25);
    CHECK(bias.bytes() == before.bytes());
  }
}

// Kills: a tensor that fits nothing let through.
TEST_CASE("ops of block values refuse tensors that do not fit", "[ops][block_values][contract]") {
  Stream s(cpu_runtime());
  const HostTensor table(kF32, {3, 4}), values(kF32, {5, 2}), blocks(DType::kI32, {5, 2}), one(kF32, {1});
  const auto message = [&](auto&& run) { return error_of(run).what; };
  CHECK(message([&] { ops::block_weight_sums(s, table, values, blocks); }) ==
        "block_weight_sums: 5 tokens cannot be cut into 3 equal groups; expected a divisor");
  CHECK(message([&] { ops::add_block_values(s, values, table, blocks); }) ==
        "add_block_values: 5 tokens cannot be cut into 3 equal groups; expected a divisor");
  CHECK(message([&] { ops::block_weight_sums(s, table, values, values); }) ==
        "block_weight_sums: blocks is f32 [5, 2] on cpu; expected i32 [5, 2] on cpu");
  CHECK(message([&] { ops::mean_square(s, table, one, 1); }) ==
        "mean_square: loss is f32 [3, 4] on cpu; expected f32 [1] on cpu");
  CHECK(message([&] { ops::update_balance_bias(s, one, one, one, 1); }) ==
        "update_balance_bias: load is f32 [1] on cpu; expected f64 [1] on cpu");
}

// Kills: tokens cut by the number of threads.
TEST_CASE("block values give the same bits for any number of threads", "[ops][block_values]") {
  const HostTensor ids = some_blocks(30'000, 2, 9), weights(kF32, {30'000, 2}, random_values(60'000, 1));
  for (int64_t groups : {1, 10}) {
    check_same_on_any_threads([&] {
      HostTensor sums(kF32, {groups, 9}), values = weights;
      Stream stream(cpu_runtime());
      ops::block_weight_sums(stream, sums, weights, ids);
      ops::add_block_values(stream, values, sums, ids);
      return std::pair(sums.bytes(), values.bytes());
    });
  }
}
