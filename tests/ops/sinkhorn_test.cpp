#include "core/stream.h"
#include "kernels/ops.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/complex_step.h"
#include "support/error_of.h"
#include "support/few_shapes.h"
#include "support/host_tensor.h"

#include <array>
#include <cmath>

using namespace sffn;
using namespace sffn::test;

namespace {

constexpr DType kF32 = DType::kF32, kF64 = DType::kF64;
constexpr Sinkhorn kVariants[] = {Sinkhorn::kTextbook, Sinkhorn::kAsPublished};

HostTensor balanced(DType dtype, int64_t tokens, int64_t blocks, const std::vector<double>& logits, Sinkhorn variant,
                    int64_t groups = 1, int64_t iterations = 3) {
  HostTensor out(dtype, {tokens, blocks});
  Stream stream(cpu_runtime());
  ops::sinkhorn(stream, out, HostTensor(dtype, {tokens, blocks}, logits), groups, iterations, variant);
  return out;
}

std::vector<double> some_logits(int64_t tokens, int64_t blocks, double std = 2) {
  std::vector<double> x = random_values(static_cast<size_t>(tokens * blocks), 1, std);
  for (double& value : x) value = static_cast<double>(static_cast<float>(value));
  return x;
}

}  // namespace

// Kills: a marginal of tokens or blocks that is not 1 or n/B, a dual of another group.
TEST_CASE("many textbook iterations give the transport plan of every group", "[ops][sinkhorn]") {
  for (DType dtype : {kF32, kF64}) {
    const double tolerance = dtype == kF32 ? 1e-4 : 1e-9;
    for (auto [groups, n, blocks] :
         all_or_few<std::array<int64_t, 3>>({{1, 9, 4}, {3, 5, 7}, {2, 130, 3}, {2, 3, 1}}, {{1, 9, 4}})) {
      const int64_t tokens = groups * n;
      const auto plan =
          balanced(dtype, tokens, blocks, some_logits(tokens, blocks), Sinkhorn::kTextbook, groups, 300).values();
      std::vector<double> of_block(static_cast<size_t>(groups * blocks), 0.0);
      for (int64_t t = 0; t < tokens; ++t) {
        double of_token = 0;
        for (int64_t i = 0; i < blocks; ++i) {
          const double mass = std::exp(plan[static_cast<size_t>(t * blocks + i)]);
          of_token += mass, of_block[static_cast<size_t>(t / n * blocks + i)] += mass;
        }
        CHECK(of_token == Approx(1).epsilon(tolerance));
      }
      for (double mass : of_block) CHECK(mass == Approx(double(n) / double(blocks)).epsilon(tolerance));
    }
  }
}

// Kills: duals in another order, an iteration too many or too few, the sign of a variant; the textbook and the
// published forms written with plain exponentials.
TEST_CASE("a few iterations are the plain row and column normalisations", "[ops][sinkhorn]") {
  const size_t n = 6, blocks = 4;
  const auto x = some_logits(n, blocks, 1);
  for (int iterations : {1, 3}) {
    // textbook: P = e^x; rows to 1, then columns to n/B
    std::vector<double> plan(x);
    for (double& value : plan) value = std::exp(value);
    for (int k = 0; k < iterations; ++k) {
      for (size_t t = 0; t < n; ++t) {
        double sum = 0;
        for (size_t i = 0; i < blocks; ++i) sum += plan[t * blocks + i];
        for (size_t i = 0; i < blocks; ++i) plan[t * blocks + i] /= sum;
      }
      for (size_t i = 0; i < blocks; ++i) {
        double sum = 0;
        for (size_t t = 0; t < n; ++t) sum += plan[t * blocks + i];
        for (size_t t = 0; t < n; ++t) plan[t * blocks + i] *= double(n) / double(blocks) / sum;
      }
    }
    std::vector<double> log_plan(plan);
    for (double& value : log_plan) value = std::log(value);
    check_close(balanced(kF64, n, blocks, x, Sinkhorn::kTextbook, 1, iterations).values(), log_plan, 1e-12);
    // as published: u = e^f, v = e^g; each is one over a sum of e^x *divided* by the other
    std::vector<double> u(n), v(blocks, 1.0);
    for (int k = 0; k < iterations; ++k) {
      for (size_t t = 0; t < n; ++t) {
        double sum = 0;
        for (size_t i = 0; i < blocks; ++i) sum += std::exp(x[t * blocks + i]) / v[i];
        u[t] = 1 / sum;
      }
      for (size_t i = 0; i < blocks; ++i) {
        double sum = 0;
        for (size_t t = 0; t < n; ++t) sum += std::exp(x[t * blocks + i]) / u[t];
        v[i] = double(n) / double(blocks) / sum;
      }
    }
    for (size_t c = 0; c < plan.size(); ++c) log_plan[c] = x[c] + std::log(u[c / blocks]) + std::log(v[c % blocks]);
    check_close(balanced(kF64, n, blocks, x, Sinkhorn::kAsPublished, 1, iterations).values(), log_plan, 1e-12);
  }
}

// Kills: a chunk of tokens or a tail of blocks left out of a dual, a group that starts at another's token.
TEST_CASE("sinkhorn in f32 is the reference at every size", "[ops][sinkhorn]") {
  for (Sinkhorn variant : kVariants) {
    for (int64_t groups : {1, 3}) {
      for (int64_t n : all_or_few({0, 1, 31, 33, 127, 300}, {33})) {
        for (int64_t blocks : all_or_few({1, 31, 33, 64, 127}, {33, 64})) {
          const int64_t tokens = groups * n;
          const auto x = some_logits(tokens, blocks);
          const auto exact = balanced(kF64, tokens, blocks, x, variant, groups).values();
          // six logarithms of sums, of numbers below about 30, each passed on to the next at most at its own size
          check_within(balanced(kF32, tokens, blocks, x, variant, groups).values(), exact,
                       [](size_t) { return 6 * 16 * 2 * 0x1p-24 * 30; });
        }
      }
    }
  }
}

// Kills: a part of a long row left out of the dual of its token.
TEST_CASE("sinkhorn in f32 is the reference for many blocks", "[ops][sinkhorn]") {
  for (Sinkhorn variant : kVariants) {
    for (int64_t blocks : {2052, 2501}) {
      const auto x = some_logits(6, blocks);
      check_within(balanced(kF32, 6, blocks, x, variant, 2).values(), balanced(kF64, 6, blocks, x, variant, 2).values(),
                   [](size_t) { return 6 * 16 * 2 * 0x1p-24 * 30; });
    }
  }
}

// Kills: exponentials of logits that are not shifted.
TEST_CASE("logits of ten thousand give finite balanced scores", "[ops][sinkhorn]") {
  for (Sinkhorn variant : kVariants) {
    for (DType dtype : {kF32, kF64}) {
      const std::vector<double> x{1e4, -1e4, 0, -1e4, -1e4, -1e4, 1e4, 1e4, -1e4, 0, 0, 0};
      for (double score : balanced(dtype, 4, 3, x, variant).values()) CHECK(std::isfinite(score));
    }
  }
}

// Kills: NaN that vanishes, so that nobody hears of it.
TEST_CASE("NaN in a logit reaches every score of its group and no other", "[ops][sinkhorn]") {
  for (Sinkhorn variant : kVariants) {
    for (DType dtype : {kF32, kF64}) {
      auto x = some_logits(10, 3);
      x[4] = std::nan("");
      const auto out = balanced(dtype, 10, 3, x, variant, 2).values();
      for (size_t c = 0; c < out.size(); ++c) CHECK(std::isnan(out[c]) == (c < 15));
    }
  }
}

// Kills: writing over logits that are still to be read.
TEST_CASE("sinkhorn refuses what does not fit", "[ops][sinkhorn][contract]") {
  Stream s(cpu_runtime());
  const HostTensor x(kF32, {4, 3}), out(kF32, {4, 3}), other(kF32, {3, 4});
  const auto message = [&](auto&& run) { return error_of(run).what; };
  CHECK(message([&] { ops::sinkhorn(s, x, x, 1, 3, Sinkhorn::kTextbook); }) == "sinkhorn: out is the memory of logits");
  CHECK(message([&] { ops::sinkhorn(s, other, x, 1, 3, Sinkhorn::kTextbook); }) ==
        "sinkhorn: out is f32 [3, 4] on cpu; expected f32 [4, 3] on cpu");
  CHECK(message([&] { ops::sinkhorn(s, out, x, 3, 3, Sinkhorn::kTextbook); }) ==
        "sinkhorn: 4 tokens cannot be cut into 3 equal groups; expected a divisor");
  CHECK(message([&] { ops::sinkhorn(s, out, x, 1, 0, Sinkhorn::kTextbook); }) ==
        "sinkhorn: iterations are 0; expected at least 1");
}

// Kills: parts of a dual joined in the order in which threads finish.
TEST_CASE("sinkhorn gives the same bits for any number of threads", "[ops][sinkhorn]") {
  const auto x = some_logits(900, 37);
  for (int64_t groups : {1, 9}) {
    for (Sinkhorn variant : kVariants) {
      check_same_on_any_threads([&] { return balanced(kF32, 900, 37, x, variant, groups).bytes(); });
    }
  }
}
