#include "core/stream.h"
#include "kernels/ops.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/complex_step.h"
#include "support/error_of.h"
#include "support/few_shapes.h"
#include "support/host_tensor.h"
#include "support/tolerances.h"

#include <cmath>
#include <numeric>

using namespace sffn;
using namespace sffn::test;

namespace {

constexpr BalanceLoss kLosses[] = {BalanceLoss::kSwitch, BalanceLoss::kEntropy, BalanceLoss::kCv2};
constexpr DType kF32 = DType::kF32, kF64 = DType::kF64;

struct Problem {
  int64_t groups, blocks;
  double tokens = 8, weight = 0.3, gradient_weight = 0.3;
  std::vector<double> sums;
  std::vector<double> counts;

  Problem(int64_t groups_, int64_t blocks_) : groups(groups_), blocks(blocks_) {
    for (double x : random_values(static_cast<size_t>(groups * blocks), 1)) sums.push_back(0.1 + std::abs(x));
    for (size_t i = 0; i < sums.size(); ++i) counts.push_back(static_cast<double>((i * 7 + 2) % 5));
  }
  HostTensor count_tensor(BalanceLoss kind) const {
    return kind == BalanceLoss::kSwitch ? HostTensor(DType::kI32, {groups, blocks}, counts) : HostTensor();
  }
};

struct Result {
  HostTensor loss, dsums;
};

Result run(DType dtype, const Problem& p, BalanceLoss kind, double before = 0) {
  Result out{HostTensor(dtype, {1}, {before}), HostTensor(dtype, {p.groups, p.blocks})};
  Stream stream(cpu_runtime());
  ops::balance_loss(stream, out.loss, out.dsums, HostTensor(dtype, {p.groups, p.blocks}, p.sums), p.count_tensor(kind),
                    kind, p.tokens, p.weight, p.gradient_weight);
  return out;
}

}  // namespace

// Kills: a missing 1/S or 1/tokens, log P without + 1, a mean of cv2 taken as constant.
TEST_CASE("the gradient of a balance loss is the complex step of the loss", "[ops][balance]") {
  for (BalanceLoss kind : kLosses) {
    for (auto [groups, blocks] : {std::pair<int64_t, int64_t>{1, 5}, {3, 4}, {2, 1}}) {
      const Problem p(groups, blocks);
      const auto expected =
          complex_step_gradient(p.sums, {1}, [&, groups = groups, blocks = blocks](std::vector<Complex> sums) {
            std::vector<Complex> dsums(sums.size()), loss(1);
            Stream stream(cpu_runtime());
            const auto matrix = [&](std::vector<Complex>& x) {
              return Tensor(x.data(), {groups, blocks}, DType::kC128, Device::cpu());
            };
            ops::balance_loss(stream, Tensor(loss.data(), {1}, DType::kC128, Device::cpu()), matrix(dsums),
                              matrix(sums), p.count_tensor(kind), kind, p.tokens, p.weight, p.gradient_weight);
            return loss;
          });
      check_close(run(kF64, p, kind).dsums.values(), expected, 1e-12);
      CHECK(run(kF32, p, kind).dsums.values()[0] == Approx(expected[0]).epsilon(1e-6));
    }
  }
}

// Kills: any factor of the equations, a sum over groups for the mean, "=" for "+=" at the loss.
TEST_CASE("balance losses are what their equations say on small numbers", "[ops][balance]") {
  Problem p(2, 2);
  p.tokens = 4, p.weight = 2, p.gradient_weight = 5;
  p.sums = {1, 3, 2, 2};
  p.counts = {1, 3, 0, 4};
  const double entropy = 0.25 * std::log(0.25) + 0.75 * std::log(0.75) + std::log(0.5);
  for (DType dtype : {kF32, kF64}) {
    // B·Σ f P: 2·(1/4·1/4 + 3/4·3/4) = 1.25 and 2·(0 + 1·1/2) = 1
    const Result of_switch = run(dtype, p, BalanceLoss::kSwitch, 7);
    CHECK(of_switch.loss.values()[0] == Approx(7 + 2 * (1.25 + 1) / 2));
    check_close(of_switch.dsums.values(), {5 * 2 * 0.25 / 8, 5 * 2 * 0.75 / 8, 0, 5 * 2 * 1.0 / 8}, 1e-7);
    CHECK(run(dtype, p, BalanceLoss::kEntropy, 7).loss.values()[0] == Approx(7 + 2 * entropy / 2));
    CHECK(run(dtype, p, BalanceLoss::kCv2, 7).loss.values()[0] == Approx(7 + 2 * (1.0 / 4 + 0) / 2));
  }
}

// Kills: blocks or groups beyond a number of threads left out.
TEST_CASE("balance losses in f32 are the reference at every size", "[ops][balance]") {
  for (BalanceLoss kind : kLosses) {
    for (int64_t groups : all_or_few({1, 3, 300}, {3})) {
      for (int64_t blocks : {1, 31, 33, 127, 300}) {
        Problem p(groups, blocks);
        for (double& x : p.sums) x = static_cast<double>(static_cast<float>(x));
        const Result fast = run(kF32, p, kind, 2), exact = run(kF64, p, kind, 2);
        const double loss = exact.loss.values()[0];
        CHECK(std::abs(fast.loss.values()[0] - loss) <= 4 * 0x1p-24 * (2 + std::abs(loss - 2)));
        const auto dsums = exact.dsums.values();
        // a gradient is rounded once; that of cv2 may cancel to 1e-10 of its terms in double
        check_within(fast.dsums.values(), dsums, [&](size_t i) { return 2 * 0x1p-24 * std::abs(dsums[i]) + 1e-12; });
      }
    }
  }
}

// Kills: a gradient scaled with the weight of the loss, or a loss scaled with that of the gradient.
TEST_CASE("the loss has its weight and its gradient another", "[ops][balance]") {
  for (BalanceLoss kind : kLosses) {
    Problem p(2, 3);
    const Result base = run(kF64, p, kind);
    p.gradient_weight *= 8;
    const Result scaled = run(kF64, p, kind);
    CHECK(scaled.loss.bytes() == base.loss.bytes());
    for (size_t i = 0; i < 6; ++i) CHECK(scaled.dsums.values()[i] == 8 * base.dsums.values()[i]);
  }
}

// Kills: log 0, 0/0 of an empty group, of counts that are all dropped, of a mean of zero.
TEST_CASE("blocks nobody wants and empty groups give finite losses and gradients", "[ops][balance]") {
  for (BalanceLoss kind : kLosses) {
    for (DType dtype : {kF32, kF64}) {
      for (double tokens : {8.0, 0.0}) {
        Problem p(2, 3);
        p.tokens = tokens;
        p.sums = {0, 0, 0, 0, tokens, 0};
        p.counts.assign(6, 0);
        const Result out = run(dtype, p, kind, 3);
        CHECK(std::isfinite(out.loss.values()[0]));
        if (tokens == 0) CHECK(out.loss.values()[0] == 3);
        for (double d : out.dsums.values()) CHECK(std::isfinite(d));
      }
    }
  }
}

// Kills: sums read after they were overwritten.
TEST_CASE("the gradient of a balance loss may be written over its sums", "[ops][balance]") {
  for (BalanceLoss kind : kLosses) {
    const Problem p(3, 33);
    for (DType dtype : {kF32, kF64}) {
      HostTensor sums(dtype, {3, 33}, p.sums), loss(dtype, {1}, {0.0});
      Stream stream(cpu_runtime());
      ops::balance_loss(stream, loss, sums, sums, p.count_tensor(kind), kind, p.tokens, p.weight, p.gradient_weight);
      const Result apart = run(dtype, p, kind);
      CHECK((sums.bytes() == apart.dsums.bytes() && loss.bytes() == apart.loss.bytes()));
    }
  }
}

// Kills: a group's rows miscounted, a strip of columns left out, "+=" for "=".
TEST_CASE("group sums in f32 are the reference at every size, exact on integers", "[ops][balance]") {
  for (int64_t groups : {1, 3}) {
    for (int64_t rows : {0, 1, 31, 33, 127}) {
      for (int64_t columns : {1, 31, 33, 127}) {
        const int64_t n = groups * rows;
        HostTensor x(kF32, {n, columns}, integer_values(static_cast<size_t>(n * columns), 1, 50));
        HostTensor out(kF32, {groups, columns}, random_values(static_cast<size_t>(groups * columns), 2));
        HostTensor exact(kF64, {groups, columns}, out.values());
        Stream stream(cpu_runtime());
        ops::group_sum(stream, out, x);
        ops::group_sum(stream, exact, x.as(kF64));
        CHECK(out.values() == exact.values());
        if (n * columns > 0) {
          const auto values = x.values();
          double first = 0;
          for (int64_t r = 0; r < rows; ++r) first += values[static_cast<size_t>(r * columns)];
          CHECK(exact.values()[0] == first);
        }
      }
    }
  }
}

// Kills: a total in float, which loses a little of every block of rows beyond 2^24; the last of many parts left out.
TEST_CASE("a group sum of many rows is exact where its blocks are", "[ops][balance]") {
  const int64_t rows = GENERATE(32'768, 50'000), columns = 3;
  std::vector<double> values(rows * columns, 1001);
  double exact = 0;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) values[static_cast<size_t>(r * columns + c)] += r % 64 == 0;
    exact += 1001 + (r % 64 == 0);
  }
  HostTensor out(kF32, {1, columns});
  Stream stream(cpu_runtime());
  ops::group_sum(stream, out, HostTensor(kF32, {rows, columns}, values));
  for (double sum : out.values()) CHECK(sum == static_cast<double>(static_cast<float>(exact)));
}

// Kills: work cut by the number of threads.
TEST_CASE("group sums give the same bits for any number of threads", "[ops][balance]") {
  const HostTensor x(kF32, {900, 200}, random_values(900 * 200, 1));
  for (int64_t groups : {1, 9}) {
    check_same_on_any_threads([&] {
      HostTensor out(kF32, {groups, 200});
      Stream stream(cpu_runtime());
      ops::group_sum(stream, out, x);
      return out.bytes();
    });
  }
}

// Kills: a tensor that fits nothing let through, counts forgotten or not looked at.
TEST_CASE("balance losses and group sums refuse tensors that do not fit", "[ops][balance][contract]") {
  Stream s(cpu_runtime());
  const HostTensor sums(kF32, {2, 3}), loss(kF32, {1}), counts(DType::kI32, {2, 3}), x(kF32, {5, 3});
  const auto message = [&](auto&& run) { return error_of(run).what; };
  CHECK(message([&] { ops::group_sum(s, sums, x); }) ==
        "group_sum: 5 tokens cannot be cut into 2 equal groups; expected a divisor");
  CHECK(message([&] { ops::balance_loss(s, loss, sums, sums, Tensor(), BalanceLoss::kSwitch, 4, 1, 1); }) ==
        "balance_loss: counts is absent; expected i32 [2, 3] on cpu");
  CHECK(message([&] { ops::balance_loss(s, loss, sums, sums, counts, BalanceLoss::kCv2, 4, 1, 1); }) ==
        "balance_loss: counts is i32 [2, 3] on cpu; expected nothing: only the switch loss looks at them");
  CHECK(message([&] { ops::balance_loss(s, sums, sums, sums, counts, BalanceLoss::kSwitch, 4, 1, 1); }) ==
        "balance_loss: loss is f32 [2, 3] on cpu; expected f32 [1] on cpu");
  CHECK(message([&] { ops::balance_loss(s, loss, sums, sums, counts, BalanceLoss::kSwitch, -1, 1, 1); }) ==
        "balance_loss: tokens are -1; expected a finite number of at least 0");
}
