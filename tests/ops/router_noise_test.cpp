#include "core/stream.h"
#include "kernels/ops.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/complex_step.h"
#include "support/error_of.h"
#include "support/host_tensor.h"
#include "support/tolerances.h"

#include <cmath>
#include <limits>
#include <utility>

using namespace sffn;
using namespace sffn::test;

namespace {

constexpr DType kF32 = DType::kF32, kF64 = DType::kF64, kBF16 = DType::kBF16;
constexpr RandomKey kKey{11, 12};
constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::vector<double> rounded(const std::vector<double>& x, DType dtype = kF32) {
  return HostTensor(dtype, {static_cast<int64_t>(x.size())}, x).values();
}
Shape row_of(const std::vector<double>& x) { return {1, static_cast<int64_t>(x.size())}; }

std::vector<double> noisy(DType dtype, const std::vector<double>& logits, const std::vector<double>& spread,
                          int64_t first = 3) {
  HostTensor out(dtype, row_of(logits));
  Stream stream(cpu_runtime());
  ops::noisy_scores_forward(stream, out, HostTensor(dtype, row_of(logits), logits),
                            HostTensor(dtype, row_of(logits), spread), Draws{kKey, first});
  return out.values();
}

struct Gradients {
  HostTensor logits, spread;
};

Gradients noisy_backward(DType dtype, const std::vector<double>& dnoisy, const std::vector<double>& spread,
                         const std::vector<double>& before) {
  const Shape shape = row_of(dnoisy);
  Gradients g{HostTensor(dtype, shape, before), HostTensor(dtype, shape, before)};
  Stream stream(cpu_runtime());
  ops::noisy_scores_backward(stream, g.logits, g.spread, HostTensor(dtype, shape, dnoisy),
                             HostTensor(dtype, shape, spread), Draws{kKey, 3});
  return g;
}

std::vector<double> jittered(DType dtype, const std::vector<double>& x, double eps, int64_t first) {
  HostTensor t(dtype, row_of(x), x);
  Stream stream(cpu_runtime());
  ops::jitter(stream, t, eps, Draws{kKey, first});
  return t.values();
}

std::vector<double> masked(DType dtype, const std::vector<double>& x, double value, const Dropout& d) {
  HostTensor t(dtype, row_of(x), x);
  Stream stream(cpu_runtime());
  ops::mask_scores(stream, t, value, d);
  return t.values();
}

}  // namespace

// Kills: another draw, softplus without its logarithm, a draw that ignores first_index, draws that start again
// in a chunk.
TEST_CASE("noise on scores is a normal draw times softplus of the spread", "[ops][router_noise]") {
  const auto logits = rounded(random_values(10'001, 1)), spread = rounded(random_values(10'001, 2, 3));
  const std::vector<double> ones(logits.size(), 1.0), none(logits.size(), 0.0);
  for (DType dtype : {kF32, kF64}) {
    const auto gradient = noisy_backward(dtype, ones, none, none).spread.values();
    const auto out = noisy(dtype, logits, spread);
    for (size_t i = 0; i < out.size(); ++i) {
      const double width = std::log1p(std::exp(-std::abs(spread[i]))) + std::max(spread[i], 0.0);
      const double n = static_cast<double>(static_cast<float>(random_normal(kKey, 3 + i)));
      CHECK(gradient[i] == n / 2);
      const double exact = logits[i] + n * width;
      CHECK(std::abs(out[i] - exact) <=
            tolerances::elementwise(8, std::abs(logits[i]) + std::abs(n) * width, exact, dtype));
    }
  }
}

// Kills: softplus for its derivative, a gradient without the draw, "=" for "+=".
TEST_CASE("the reference gradient of noisy scores is their complex step, added", "[ops][router_noise]") {
  auto x = random_values(20, 1, 3);  // ten logits, ten spreads
  x[12] = 700, x[13] = -700;
  const auto dnoisy = random_values(10, 2), before = random_values(10, 3);
  const auto expected = complex_step_gradient(x, dnoisy, [](std::vector<Complex> z) {
    std::vector<Complex> out(10);
    const auto row = [](Complex* data) { return Tensor(data, {1, 10}, DType::kC128, Device::cpu()); };
    Stream stream(cpu_runtime());
    ops::noisy_scores_forward(stream, row(out.data()), row(z.data()), row(z.data() + 10), Draws{kKey, 3});
    return out;
  });
  const Gradients g = noisy_backward(kF64, dnoisy, {x.begin() + 10, x.end()}, before);
  std::vector<double> of_logits(expected.begin(), expected.begin() + 10),
      of_spread(expected.begin() + 10, expected.end());
  for (size_t i = 0; i < 10; ++i) of_logits[i] += before[i], of_spread[i] += before[i];
  check_close(g.logits.values(), of_logits, 1e-12);
  check_close(g.spread.values(), of_spread, 1e-12);
}

// Kills: a tail left out, a chunk whose draws restart.
TEST_CASE("noisy scores and their gradient in f32 are the reference at every size", "[ops][router_noise]") {
  for (size_t n : {1u, 31u, 33u, 127u, 10'000u}) {
    const auto logits = rounded(random_values(n, 1)), spread = rounded(random_values(n, 2, 3));
    const auto dnoisy = rounded(random_values(n, 3)), before = rounded(random_values(n, 4));
    const auto exact = noisy(kF64, logits, spread);
    check_within(noisy(kF32, logits, spread), exact, [&](size_t i) {
      return tolerances::elementwise(8, std::abs(logits[i]) + std::abs(exact[i] - logits[i]), exact[i], kF32);
    });
    const Gradients fast = noisy_backward(kF32, dnoisy, spread, before),
                    g = noisy_backward(kF64, dnoisy, spread, before);
    const auto of_spread = g.spread.values(), of_logits = g.logits.values();
    check_within(fast.logits.values(), of_logits, [&](size_t i) { return 0x1p-24 * std::abs(of_logits[i]); });
    check_within(fast.spread.values(), of_spread, [&](size_t i) {
      const double added = std::abs(of_spread[i] - before[i]);
      return tolerances::elementwise(10, added + std::abs(before[i]), of_spread[i], kF32);
    });
  }
  HostTensor empty(kF32, {0, 4});
  Stream stream(cpu_runtime());
  ops::noisy_scores_forward(stream, empty, empty, empty, Draws{kKey, 0});
  ops::noisy_scores_backward(stream, empty, empty, empty, empty, Draws{kKey, 0});
}

// Kills: exp of a positive spread.
TEST_CASE("spreads of ten thousand give finite noise and gradients", "[ops][router_noise]") {
  for (DType dtype : {kF32, kF64}) {
    for (double x : noisy(dtype, {1e4, -1e4, 0, 0}, {1e4, -1e4, -1e4, 1e4})) CHECK(std::isfinite(x));
    CHECK(noisy(dtype, {5}, {-1e4})[0] == 5);
    const Gradients g = noisy_backward(dtype, {1, 1}, {1e4, -1e4}, {0, 0});
    CHECK(g.spread.values()[0] == static_cast<double>(static_cast<float>(random_normal(kKey, 3))));
    CHECK(g.spread.values()[1] == 0);
  }
}

// Kills: a factor of [1, 1 + 2 eps), of [1 - eps, 1], or with eps halved.
TEST_CASE("jitter multiplies by uniform factors around one, between 1 - eps and 1 + eps", "[ops][router_noise]") {
  const size_t n = 100'000;
  const double eps = 0.125;
  for (DType dtype : {kF32, kF64}) {
    double least = 2, most = 0, sum = 0;
    for (double x : jittered(dtype, std::vector<double>(n, 1.0), eps, 0)) {
      least = std::min(least, x), most = std::max(most, x), sum += x;
    }
    CHECK((least >= 1 - eps && least < 1 - eps + 1e-4 && most <= 1 + eps && most > 1 + eps - 1e-4));
    CHECK(std::abs(sum / n - 1) < 4 * eps / std::sqrt(3.0 * n));
  }
}

// Kills: a lost remainder, counters that restart in a piece or chunk.
TEST_CASE("jitter in f32 and bf16 is the reference at every size and first index", "[ops][router_noise]") {
  for (DType dtype : {kF32, kBF16}) {
    for (size_t n : {0u, 1u, 31u, 33u, 127u, 20'001u}) {
      for (int64_t first : {0, 1003}) {
        const auto x = rounded(random_values(n, 1), dtype);
        const auto exact = jittered(kF64, x, 0.01, first);
        check_within(jittered(dtype, x, 0.01, first), exact,
                     [&](size_t i) { return tolerances::elementwise(4, std::abs(exact[i]), exact[i], dtype); });
        for (size_t i = 0; i < std::min<size_t>(n, 40); ++i) {
          const double u = static_cast<double>(random_uniform(kKey, static_cast<uint64_t>(first) + i));
          CHECK(exact[i] == x[i] * (1 + 0.01 * (2 * u - 1)));
        }
      }
    }
  }
}

// Kills: dropping by another draw than dropout, rescaling what stays, a value other than the one given.
TEST_CASE("masked scores are replaced where dropout would drop them and kept elsewhere", "[ops][router_noise]") {
  for (double value : {0.0, -1.0, -kInfinity}) {
    for (double p : {0.0, 0.1, 0.5}) {
      for (size_t n : {0u, 1u, 31u, 33u, 127u, 20'001u}) {
        for (int64_t first : {0, 1003}) {
          const auto x = rounded(random_values(n, 1));
          std::vector<double> expected = x;
          for (size_t i = 0; i < n; ++i) {
            if (static_cast<double>(random_uniform(kKey, static_cast<uint64_t>(first) + i)) < p) expected[i] = value;
          }
          CHECK(masked(kF32, x, value, {p, kKey, first}) == expected);
          CHECK(masked(kF64, x, value, {p, kKey, first}) == expected);
        }
      }
    }
  }
}

// Kills: the mask of another element than the chosen block's score, a first index that counts choices.
TEST_CASE("choices are dropped where the mask falls on their scores", "[ops][router_noise]") {
  constexpr int64_t kBlocks = 13, kPerToken = 3;
  for (double p : {0.0, 0.3}) {
    for (int64_t N : {0, 1, 31, 1033}) {
      for (int64_t first : {0, 1003}) {
        HostTensor blocks(DType::kI32, {N, kPerToken}), out(DType::kI32, {N, kPerToken});
        std::vector<double> expected(static_cast<size_t>(N * kPerToken));
        for (int64_t c = 0; c < N * kPerToken; ++c) {
          const int64_t block = c % 7 == 5 ? -1 : (c % kPerToken) * 4 + c % 5;
          const auto score = static_cast<uint64_t>(first + c / kPerToken * kBlocks + block);
          blocks.tensor().data<int32_t>()[c] = static_cast<int32_t>(block);
          const bool dropped = block < 0 || static_cast<double>(random_uniform(kKey, score)) < p;
          expected[static_cast<size_t>(c)] = dropped ? -1.0 : static_cast<double>(block);
        }
        Stream stream(cpu_runtime());
        ops::drop_choices(stream, out, blocks, kBlocks, Dropout{p, kKey, first});
        std::vector<double> found = out.values();
        found.resize(expected.size());
        CHECK(found == expected);
      }
    }
  }
}

// Kills: overflow on the left, 1 - σ on the left, an approximation that is not f32-accurate.
TEST_CASE("the sigmoid is accurate to a few ulp on both sides", "[ops][router_noise]") {
  for (size_t n : {0u, 1u, 31u, 33u, 127u, 20'001u}) {
    auto x = rounded(random_values(n, 1, 20));
    if (n > 30) x[0] = 1e4, x[1] = -1e4, x[2] = 0, x[3] = kInfinity, x[4] = -kInfinity, x[30] = 30;
    for (DType dtype : {kF32, kF64}) {
      HostTensor y(dtype, row_of(x), x);
      Stream stream(cpu_runtime());
      ops::sigmoid_forward(stream, y, y);
      const auto values = y.values();
      const double ulps = dtype == kF32 ? 4 * 2 * 0x1p-24 : 4 * 0x1p-52;
      for (size_t i = 0; i < n; ++i) {
        const double exact = x[i] < 0 ? std::exp(x[i]) / (1 + std::exp(x[i])) : 1 / (1 + std::exp(-x[i]));
        if (!(std::abs(values[i] - exact) <= ulps * exact + 0x1p-126)) FAIL_CHECK(x[i] << " gives " << values[i]);
      }
    }
  }
  HostTensor nan(kF32, {1, 1}, {std::nan("")});
  Stream stream(cpu_runtime());
  ops::sigmoid_forward(stream, nan, nan);
  CHECK(std::isnan(nan.values()[0]));
}

// Kills: σ for its derivative, 1 - σ where σ has rounded to 1, a tail left out, "+=" for "=".
TEST_CASE("the gradient of the sigmoid is the reference at every size, in place too", "[ops][router_noise]") {
  for (size_t n : {0u, 1u, 31u, 33u, 127u, 20'001u}) {
    auto x = rounded(random_values(n, 1, 20));
    if (n > 30) x[0] = 1e4, x[1] = -1e4, x[2] = 0, x[30] = 30;
    const auto dy = rounded(random_values(n, 2));
    HostTensor exact(kF64, row_of(x)), apart(kF32, row_of(x)), in_place(kF32, row_of(x), dy);
    Stream stream(cpu_runtime());
    ops::sigmoid_backward(stream, exact, HostTensor(kF64, row_of(x), dy), HostTensor(kF64, row_of(x), x));
    ops::sigmoid_backward(stream, apart, in_place, HostTensor(kF32, row_of(x), x));
    ops::sigmoid_backward(stream, in_place, in_place, HostTensor(kF32, row_of(x), x));
    CHECK(in_place.bytes() == apart.bytes());
    const auto expected = exact.values();
    check_within(apart.values(), expected, [&](size_t i) { return 12 * 0x1p-24 * std::abs(expected[i]) + 0x1p-125; });
  }
}

// Kills: an option out of range let through.
TEST_CASE("noise ops refuse tensors and numbers that do not fit", "[ops][router_noise][contract]") {
  Stream s(cpu_runtime());
  const HostTensor x(kF32, {2, 3}), other(kF32, {3, 2}), low(kBF16, {2, 3});
  const auto message = [&](auto&& run) { return error_of(run).what; };
  CHECK(message([&] {
          ops::noisy_scores_forward(s, x, x, other, Draws{kKey, 0});
        }) == "noisy_scores_forward: spread is f32 [3, 2] on cpu; expected f32 [2, 3] on cpu");
  CHECK(message([&] {
          ops::noisy_scores_backward(s, x, other, x, x, Draws{kKey, 0});
        }) == "noisy_scores_backward: dspread is f32 [3, 2] on cpu; expected f32 [2, 3] on cpu");
  CHECK(message([&] {
          ops::noisy_scores_forward(s, x, x, x, Draws{kKey, -1});
        }) == "noisy_scores_forward: first_index is -1; expected at least 0");
  CHECK(message([&] { ops::jitter(s, x, 1.0, Draws{kKey, 0}); }) == "jitter: eps is 1; expected [0, 1)");
  CHECK(message([&] {
          ops::mask_scores(s, x, 0, Dropout{1.0, kKey, 0});
        }) == "mask_scores: dropout probability is 1; expected [0, 1)");
  const HostTensor blocks(DType::kI32, {2, 3}), fewer(DType::kI32, {2, 2});
  CHECK(message([&] {
          ops::drop_choices(s, fewer, blocks, 4, Dropout{0.5, kKey, 0});
        }) == "drop_choices: out is i32 [2, 2] on cpu; expected i32 [2, 3] on cpu");
  CHECK(message([&] { ops::sigmoid_forward(s, low, low); }) ==
        "sigmoid_forward: x is bf16 [2, 3] on cpu; expected f32, f64 or c128 on cpu");
}

// Kills: random state of a thread.
TEST_CASE("noise gives the same bits for any number of threads", "[ops][router_noise]") {
  const auto x = random_values(50'003, 1), y = random_values(50'003, 2);
  check_same_on_any_threads([&] {
    return std::pair(std::pair(noisy(kF32, x, y), noisy_backward(kF32, x, y, y).spread.bytes()),
                     std::pair(jittered(kF32, x, 0.1, 7), masked(kF32, x, 0, {0.3, kKey, 7})));
  });
}
