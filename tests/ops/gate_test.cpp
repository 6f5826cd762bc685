#include "core/stream.h"
#include "kernels/ops.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/complex_step.h"
#include "support/error_of.h"
#include "support/host_tensor.h"
#include "support/tolerances.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

using namespace sffn;
using namespace sffn::test;

namespace {

constexpr Gate kGates[] = {Gate::kSigmoid, Gate::kSoftmax, Gate::kSoftmaxChosen};
constexpr DType kF32 = DType::kF32, kF64 = DType::kF64;

HostTensor block_matrix(const std::vector<int32_t>& blocks, int64_t per_token) {
  return HostTensor(DType::kI32, {static_cast<int64_t>(blocks.size()) / per_token, per_token},
                    {blocks.begin(), blocks.end()});
}

// Tokens choose distinct blocks; every seventh choice is dropped, and token 4 has lost all.
struct Problem {
  int64_t tokens, blocks, per_token;
  std::vector<double> logits, dweights, dlogits;  // dlogits: what is there before
  std::vector<int32_t> chosen;

  Problem(int64_t tokens_, int64_t blocks_, int64_t per_token_, double std = 2)
      : tokens(tokens_),
        blocks(blocks_),
        per_token(per_token_),
        logits(random_values(static_cast<size_t>(tokens_ * blocks_), 1, std)),
        dweights(random_values(static_cast<size_t>(tokens_ * per_token_), 2)),
        dlogits(random_values(static_cast<size_t>(tokens_ * blocks_), 3)) {
    for (int64_t c = 0; c < tokens * per_token; ++c) {
      const int64_t n = c / per_token, i = c % per_token;
      const bool dropped = n == 4 || (tokens > 1 && c % 7 == 3);
      chosen.push_back(dropped ? -1 : static_cast<int32_t>((n * 13 + i) % blocks));
    }
  }
  HostTensor choices() const { return HostTensor(DType::kI32, {tokens, per_token}, {chosen.begin(), chosen.end()}); }
  HostTensor scores(DType dtype, const std::vector<double>& x) const { return HostTensor(dtype, {tokens, blocks}, x); }
};

HostTensor forward(DType dtype, const Problem& p, Gate gate) {
  HostTensor weights(dtype, {p.tokens, p.per_token});
  Stream stream(cpu_runtime());
  ops::gate_forward(stream, weights, p.scores(dtype, p.logits), p.choices(), gate);
  return weights;
}

HostTensor backward(DType dtype, const Problem& p, Gate gate) {
  HostTensor dlogits = p.scores(dtype, p.dlogits);
  Stream stream(cpu_runtime());
  ops::gate_backward(stream, dlogits, HostTensor(dtype, {p.tokens, p.per_token}, p.dweights), forward(dtype, p, gate),
                     p.scores(dtype, p.logits), p.choices(), gate);
  return dlogits;
}

std::vector<Complex> complex_forward(const Problem& p, std::vector<Complex> logits, Gate gate) {
  std::vector<Complex> weights(static_cast<size_t>(p.tokens * p.per_token));
  Stream stream(cpu_runtime());
  ops::gate_forward(stream, Tensor(weights.data(), {p.tokens, p.per_token}, DType::kC128, Device::cpu()),
                    Tensor(logits.data(), {p.tokens, p.blocks}, DType::kC128, Device::cpu()), p.choices(), gate);
  return weights;
}

// The error of a gate: its exponentials see ε·|logit| in their argument (|logit| < 16), and a sum has its √n ε.
double gate_bound(int64_t terms, double size) {
  return (40 + 8 * std::sqrt(static_cast<double>(terms))) * 2 * tolerances::unit_roundoff(kF32) * size + 0x1p-126;
}

}  // namespace

// Kills: a missing 1 - σ, Σ dw·w over dropped choices, a softmax whose other blocks get no gradient, "=" for "+=".
TEST_CASE("the reference gradient of a gate is the complex step of its weights, added", "[ops][gate]") {
  for (Gate gate : kGates) {
    for (auto [tokens, blocks, per_token] : {std::array<int64_t, 3>{6, 5, 3}, {1, 1, 1}, {5, 4, 4}, {5, 7, 1}}) {
      const Problem p(tokens, blocks, per_token);
      std::vector<double> expected = complex_step_gradient(
          p.logits, p.dweights, [&](const std::vector<Complex>& logits) { return complex_forward(p, logits, gate); });
      for (size_t i = 0; i < expected.size(); ++i) expected[i] += p.dlogits[i];
      check_close(backward(kF64, p, gate).values(), expected, 1e-12);
    }
  }
}

// Kills: a softmax over the wrong set, a sigmoid where a softmax is asked.
TEST_CASE("gates weigh as their equations say", "[ops][gate]") {
  Problem p(2, 3, 2);
  p.logits = {0.0, std::log(2.0), std::log(5.0), std::log(3.0), 0.0, 0.0};
  p.chosen = {0, 2, -1, 0};
  for (DType dtype : {kF32, kF64}) {
    check_close(forward(dtype, p, Gate::kSigmoid).values(), {0.5, 5.0 / 6, 0, 0.75}, 1e-6);
    check_close(forward(dtype, p, Gate::kSoftmax).values(), {1.0 / 8, 5.0 / 8, 0, 3.0 / 5}, 1e-6);
    check_close(forward(dtype, p, Gate::kSoftmaxChosen).values(), {1.0 / 6, 5.0 / 6, 0, 1}, 1e-6);
  }
}

// Kills: a tail of the row left out, a row taken for another, the wrong chosen logit.
TEST_CASE("a gate in f32 is the reference at every size", "[ops][gate]") {
  for (Gate gate : kGates) {
    for (int64_t tokens : {0, 1, 31, 33, 127}) {
      for (int64_t blocks : {1, 31, 33, 127}) {
        Problem p(tokens, blocks, std::min<int64_t>(blocks, 3));
        for (auto* x : {&p.logits, &p.dweights, &p.dlogits}) {
          for (double& value : *x) value = static_cast<double>(static_cast<float>(value));
        }
        const auto weights = forward(kF64, p, gate).values(), gradient = backward(kF64, p, gate).values();
        check_within(forward(kF32, p, gate).values(), weights,
                     [&](size_t c) { return gate_bound(blocks, weights[c]); });
        // a gradient is a sum of at most three products of a weight and at most three dw, each below 4
        check_within(backward(kF32, p, gate).values(), gradient,
                     [&](size_t x) { return gate_bound(blocks, 4 * 4 + std::abs(gradient[x])); });
      }
    }
  }
}

// Kills: a long row of which a part is left out, a short one in packs that loses its end.
TEST_CASE("a gate in f32 is the reference for many blocks and many choices", "[ops][gate]") {
  for (Gate gate : kGates) {
    for (auto [blocks, per_token] : {std::array<int64_t, 2>{64, 40}, {2052, 3}, {3001, 100}}) {
      Problem p(6, blocks, per_token);
      for (auto* x : {&p.logits, &p.dweights, &p.dlogits}) {
        for (double& value : *x) value = static_cast<double>(static_cast<float>(value));
      }
      const auto weights = forward(kF64, p, gate).values(), gradient = backward(kF64, p, gate).values();
      check_within(forward(kF32, p, gate).values(), weights, [&](size_t c) { return gate_bound(blocks, weights[c]); });
      check_within(backward(kF32, p, gate).values(), gradient,
                   [&](size_t x) { return gate_bound(blocks, 4 * 4 * 4 + std::abs(gradient[x])); });
    }
  }
}

// Kills: one of two gradients of the same block lost.
TEST_CASE("a token that chooses a block twice adds both gradients", "[ops][gate]") {
  for (Gate gate : kGates) {
    Problem p(2, 50, 40);
    for (auto* x : {&p.logits, &p.dweights, &p.dlogits}) {
      for (double& value : *x) value = static_cast<double>(static_cast<float>(value));
    }
    for (size_t c = 0; c < p.chosen.size(); ++c) p.chosen[c] = c % 9 == 4 ? -1 : static_cast<int32_t>(c * c % 7);
    const auto gradient = backward(kF64, p, gate).values();
    check_within(backward(kF32, p, gate).values(), gradient,
                 [&](size_t x) { return gate_bound(40, 40 * 4 + std::abs(gradient[x])); });
  }
}

// Kills: exp of a positive number, a division by a sum of zero, 1 - σ of what has rounded to 1.
TEST_CASE("logits of ten thousand give finite weights and gradients", "[ops][gate]") {
  for (Gate gate : kGates) {
    Problem p(4, 3, 2);
    p.logits = {1e4, -1e4, 0, -1e4, -1e4, -1e4, 1e4, 1e4, -1e4, 30, -30, 0};
    p.chosen = {0, 1, 0, 1, 1, 2, 0, 1};
    for (DType dtype : {kF32, kF64}) {
      const auto weights = forward(dtype, p, gate).values(), gradient = backward(dtype, p, gate).values();
      for (double w : weights) CHECK((w >= 0 && w <= 1));
      for (double g : gradient) CHECK(std::isfinite(g));
    }
  }
  Problem far(1, 2, 1);  // σ'(30) = e^-30 to 1e-13: far below the last bit of σ(30)
  far.logits = {30, -30}, far.chosen = {0}, far.dweights = {1}, far.dlogits = {0, 0};
  CHECK(backward(kF32, far, Gate::kSigmoid).values()[0] == Approx(std::exp(-30.0)).epsilon(1e-5));
}

// Kills: NaN from normalising nothing; a gradient from a weight that is not there, whatever stands in dweights.
TEST_CASE("a token whose choices are all dropped has weights 0 and no gradient", "[ops][gate]") {
  for (Gate gate : kGates) {
    for (DType dtype : {kF32, kF64}) {
      Problem p(2, 3, 2);
      p.chosen = {-1, -1, -1, 2};
      p.dweights = {std::nan(""), std::nan(""), std::nan(""), 1};
      const auto weights = forward(dtype, p, gate).values(), gradient = backward(dtype, p, gate).values();
      CHECK((weights[0] == 0 && weights[1] == 0 && weights[2] == 0 && weights[3] > 0));
      const auto before = p.scores(dtype, p.dlogits).values();
      CHECK(std::equal(before.begin(), before.begin() + 3, gradient.begin()));
      for (double g : gradient) CHECK(std::isfinite(g));
    }
  }
}

// Kills: NaN skipped by a comparison.
TEST_CASE("NaN in a logit that a weight depends on is a NaN weight", "[ops][gate]") {
  for (DType dtype : {kF32, kF64}) {
    for (int64_t place : {0, 39}) {
      Problem p(1, 40, 1);
      p.logits[static_cast<size_t>(place)] = std::nan("");
      p.chosen = {7};
      CHECK(std::isnan(forward(dtype, p, Gate::kSoftmax).values()[0]));
      p.chosen = {static_cast<int32_t>(place)};
      for (Gate gate : kGates) CHECK(std::isnan(forward(dtype, p, gate).values()[0]));
    }
  }
}

// Kills: an id read outside the row.
TEST_CASE("a block out of range is an error that names its place", "[ops][gate][cpu]") {
  for (int32_t bad : {5, -2}) {
    Problem p(6, 5, 3);
    p.chosen[7] = bad;
    for (Gate gate : kGates) {
      const Caught error = error_of([&] { forward(kF32, p, gate); });
      CHECK(error.says(cat("gate_forward: blocks[2, 1] is ", bad, "; expected -1 to 4")));
    }
  }
}

// Kills: a tensor that fits nothing let through.
TEST_CASE("gates refuse tensors that do not fit", "[ops][gate][contract]") {
  Stream s(cpu_runtime());
  const HostTensor logits(kF32, {4, 6}), weights(kF32, {4, 2}), low(DType::kBF16, {4, 6});
  const HostTensor blocks = block_matrix({0, 1, 0, 1, 0, 1, 0, 1}, 2), short_blocks = block_matrix({0, 1}, 2);
  const auto message = [&](auto&& run) { return error_of(run).what; };
  CHECK(message([&] { ops::gate_forward(s, weights, low, blocks, Gate::kSigmoid); }) ==
        "gate_forward: logits is bf16 [4, 6] on cpu; expected f32, f64 or c128 on cpu");
  CHECK(message([&] { ops::gate_forward(s, weights, logits, short_blocks, Gate::kSigmoid); }) ==
        "gate_forward: blocks is i32 [1, 2] on cpu; expected i32 [4, 2] on cpu");
  CHECK(message([&] { ops::gate_forward(s, logits, logits, blocks, Gate::kSigmoid); }) ==
        "gate_forward: weights is f32 [4, 6] on cpu; expected f32 [4, 2] on cpu");
  CHECK(message([&] { ops::gate_backward(s, weights, weights, weights, logits, blocks, Gate::kSigmoid); }) ==
        "gate_backward: dlogits is f32 [4, 2] on cpu; expected f32 [4, 6] on cpu");
  CHECK(message([&] { ops::gate_backward(s, logits, logits, weights, logits, blocks, Gate::kSigmoid); }) ==
        "gate_backward: dweights is f32 [4, 6] on cpu; expected f32 [4, 2] on cpu");
}

// Kills: rows cut by the number of threads.
TEST_CASE("gates give the same bits for any number of threads", "[ops][gate]") {
  const Problem p(1000, 77, 5);
  for (Gate gate : kGates) {
    check_same_on_any_threads(
        [&] { return std::pair(forward(kF32, p, gate).bytes(), backward(kF32, p, gate).bytes()); });
  }
}
