#include "core/stream.h"
#include "kernels/ops.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/complex_step.h"
#include "support/error_of.h"
#include "support/host_tensor.h"
#include "support/tolerances.h"

#include <cmath>
#include <utility>

using namespace sffn;
using namespace sffn::test;

namespace {

constexpr DType kF32 = DType::kF32, kF64 = DType::kF64;
constexpr double kEps = 2 * 0x1p-24;

struct Rows {
  HostTensor p, lse;
};

Rows forward(DType dtype, int64_t rows, int64_t columns, const std::vector<double>& scores) {
  Rows out{HostTensor(dtype, {rows, columns}), HostTensor(dtype, {rows})};
  Stream stream(cpu_runtime());
  ops::softmax_rows_forward(stream, out.p, out.lse, HostTensor(dtype, {rows, columns}, scores));
  return out;
}

struct Gradient {
  std::vector<double> before, dp;
  int64_t groups = 1;
  double lse_scale = 0;  // 0: no lse
};

HostTensor backward(DType dtype, int64_t rows, int64_t columns, const std::vector<double>& scores, const Gradient& g) {
  const Rows out = forward(dtype, rows, columns, scores);
  HostTensor dscores(dtype, {rows, columns}, g.before);
  const HostTensor dp = g.dp.empty() ? HostTensor() : HostTensor(dtype, {g.groups, columns}, g.dp);
  Stream stream(cpu_runtime());
  ops::softmax_rows_backward(stream, dscores, out.p, dp, g.lse_scale != 0 ? out.lse : HostTensor(), g.lse_scale);
  return dscores;
}

}  // namespace

// Kills: a dp of another group, no ⟨p, dp⟩, an lse that is not differentiated or scaled, "=" for "+=".
TEST_CASE("the reference gradient of softmax rows is the complex step of its probabilities and lse", "[ops][softmax]") {
  for (auto [rows, columns, groups] : {std::array<int64_t, 3>{6, 5, 3}, {6, 5, 1}, {4, 1, 2}, {3, 4, 3}}) {
    for (bool with_dp : {true, false}) {
      for (double lse_scale : {0.0, 0.7}) {
        const auto scores = random_values(static_cast<size_t>(rows * columns), 1, 2);
        Gradient g{random_values(scores.size(), 2), {}, groups, lse_scale};
        if (with_dp) g.dp = random_values(static_cast<size_t>(groups * columns), 3);
        // Σ_n ⟨p_n, dp_s⟩ + lse_scale/2·Σ lse²
        std::vector<double> expected = complex_step_gradient(scores, {1}, [&](std::vector<Complex> x) {
          std::vector<Complex> p(x.size()), lse(static_cast<size_t>(rows));
          Stream stream(cpu_runtime());
          ops::softmax_rows_forward(stream, Tensor(p.data(), {rows, columns}, DType::kC128, Device::cpu()),
                                    Tensor(lse.data(), {rows}, DType::kC128, Device::cpu()),
                                    Tensor(x.data(), {rows, columns}, DType::kC128, Device::cpu()));
          Complex total = 0;
          for (int64_t n = 0; n < rows; ++n) {
            total += lse_scale / 2 * lse[n] * lse[n];
            const int64_t group = n / (rows / groups);
            for (int64_t i = 0; with_dp && i < columns; ++i) total += p[n * columns + i] * g.dp[group * columns + i];
          }
          return std::vector<Complex>{total};
        });
        for (size_t i = 0; i < expected.size(); ++i) expected[i] += g.before[i];
        check_close(backward(kF64, rows, columns, scores, g).values(), expected, 1e-12);
      }
    }
  }
}

// Kills: a tail of the row left out of the maximum or the sum, a row or group taken for another.
TEST_CASE("softmax rows in f32 are the reference at every size", "[ops][softmax]") {
  for (int64_t rows : {0, 1, 31, 33, 127}) {
    for (int64_t columns : {1, 31, 33, 127}) {
      auto scores = random_values(static_cast<size_t>(rows * columns), 1, 2);
      for (double& x : scores) x = static_cast<double>(static_cast<float>(x));
      const Rows fast = forward(kF32, rows, columns, scores), exact = forward(kF64, rows, columns, scores);
      const auto p = exact.p.values(), lse = exact.lse.values();
      check_within(fast.p.values(), p, [&](size_t i) { return (40 + std::sqrt(columns)) * kEps * p[i] + 0x1p-126; });
      check_within(fast.lse.values(), lse, [&](size_t n) { return 16 * kEps * (1 + std::abs(lse[n])); });
      const int64_t groups = rows % 3 == 0 ? 3 : 1;
      const Gradient g{random_values(scores.size(), 2), random_values(static_cast<size_t>(groups * columns), 3), groups,
                       0.7};
      const auto gradient = backward(kF64, rows, columns, scores, g).values();
      check_within(backward(kF32, rows, columns, scores, g).values(), gradient, [&](size_t i) {
        // p ⊙ (dp + shift): |dp| and |shift| below 4 + lse_scale·|lse| < 12
        return (60 + std::sqrt(columns)) * kEps * 12 * p[i] +
               4 * kEps * (std::abs(gradient[i]) + std::abs(g.before[i]));
      });
    }
  }
}

// Kills: a part of a long row left out, a row in packs that reads its neighbour.
TEST_CASE("softmax rows in f32 are the reference for long rows and in packs", "[ops][softmax]") {
  const int64_t rows = 6;
  for (int64_t columns : {4, 64, 2048, 2052, 3001}) {
    auto scores = random_values(static_cast<size_t>(rows * columns), 1, 2);
    for (double& x : scores) x = static_cast<double>(static_cast<float>(x));
    const Rows fast = forward(kF32, rows, columns, scores), exact = forward(kF64, rows, columns, scores);
    const auto p = exact.p.values(), lse = exact.lse.values();
    check_within(fast.p.values(), p, [&](size_t i) { return (40 + std::sqrt(columns)) * kEps * p[i] + 0x1p-126; });
    check_within(fast.lse.values(), lse, [&](size_t n) { return 16 * kEps * (1 + std::abs(lse[n])); });
    const Gradient g{random_values(scores.size(), 2), random_values(static_cast<size_t>(2 * columns), 3), 2, 0.7};
    const auto gradient = backward(kF64, rows, columns, scores, g).values();
    check_within(backward(kF32, rows, columns, scores, g).values(), gradient, [&](size_t i) {
      // |dp| below 5 and lse_scale·|lse| below 8
      return (60 + std::sqrt(columns)) * kEps * 14 * p[i] + 4 * kEps * (std::abs(gradient[i]) + std::abs(g.before[i]));
    });
  }
}

// Kills: exp of a positive number, a logarithm of zero.
TEST_CASE("scores of ten thousand give finite probabilities that add up to one", "[ops][softmax]") {
  for (DType dtype : {kF32, kF64}) {
    for (int64_t place : {0, 17, 39}) {
      std::vector<double> scores(80, 0.0);
      scores[static_cast<size_t>(place)] = 1e4;
      for (size_t i = 40; i < 80; ++i) scores[i] = -1e4;
      const Rows out = forward(dtype, 2, 40, scores);
      CHECK(out.p.values()[static_cast<size_t>(place)] == 1);
      CHECK(out.lse.values()[0] == 1e4);
      for (size_t i = 40; i < 80; ++i) CHECK(out.p.values()[i] == Approx(1.0 / 40).epsilon(1e-6));
      CHECK(out.lse.values()[1] == Approx(-1e4 + std::log(40.0)).epsilon(1e-7));
    }
  }
}

// Kills: NaN lost in the maximum.
TEST_CASE("NaN in a row of scores is a row of NaN and no other", "[ops][softmax]") {
  for (DType dtype : {kF32, kF64}) {
    for (size_t place : {0u, 17u, 39u}) {
      std::vector<double> scores(80, 0.5);
      scores[place] = std::nan("");
      const Rows out = forward(dtype, 2, 40, scores);
      for (size_t i = 0; i < 80; ++i) CHECK(std::isnan(out.p.values()[i]) == (i < 40));
      CHECK((std::isnan(out.lse.values()[0]) && std::isfinite(out.lse.values()[1])));
    }
  }
}

// Kills: a score read after its probability was written over it; writing to an absent lse.
TEST_CASE("probabilities may be written over their scores, with or without lse", "[ops][softmax]") {
  const auto scores = random_values(5 * 37, 1, 2);
  for (DType dtype : {kF32, kF64}) {
    HostTensor x(dtype, {5, 37}, scores);
    Stream stream(cpu_runtime());
    ops::softmax_rows_forward(stream, x, Tensor(), x);
    CHECK(x.bytes() == forward(dtype, 5, 37, scores).p.bytes());
  }
}

// Kills: a tensor that fits nothing let through.
TEST_CASE("softmax rows refuse tensors that do not fit", "[ops][softmax][contract]") {
  Stream s(cpu_runtime());
  const HostTensor x(kF32, {4, 6}), lse(kF32, {4}), wrong(kF32, {6}), low(DType::kBF16, {4, 6}), dp(kF32, {3, 6});
  const auto message = [&](auto&& run) { return error_of(run).what; };
  CHECK(message([&] { ops::softmax_rows_forward(s, low, Tensor(), low); }) ==
        "softmax_rows_forward: scores is bf16 [4, 6] on cpu; expected f32, f64 or c128 on cpu");
  CHECK(message([&] { ops::softmax_rows_forward(s, x, wrong, x); }) ==
        "softmax_rows_forward: lse is f32 [6] on cpu; expected f32 [4] on cpu");
  CHECK(message([&] { ops::softmax_rows_backward(s, x, x, dp, lse, 1); }) ==
        "softmax_rows_backward: 4 tokens cannot be cut into 3 equal groups; expected a divisor");
  CHECK(message([&] { ops::softmax_rows_backward(s, dp, x, Tensor(), lse, 1); }) ==
        "softmax_rows_backward: dscores is f32 [3, 6] on cpu; expected f32 [4, 6] on cpu");
}

// Kills: rows cut by the number of threads.
TEST_CASE("softmax rows give the same bits for any number of threads", "[ops][softmax]") {
  const int64_t rows = 1002, columns = 77;
  const auto scores = random_values(static_cast<size_t>(rows * columns), 1);
  const Gradient g{random_values(scores.size(), 2), random_values(static_cast<size_t>(3 * columns), 3), 3, 0.5};
  check_same_on_any_threads([&] {
    const Rows out = forward(kF32, rows, columns, scores);
    return std::pair(std::pair(out.p.bytes(), out.lse.bytes()), backward(kF32, rows, columns, scores, g).bytes());
  });
}
