#include "kernels/ref/cross_entropy.h"

#include "core/stream.h"
#include "kernels/ops.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/complex_step.h"
#include "support/host_tensor.h"
#include "support/tolerances.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

using namespace sffn;
using namespace sffn::test;

namespace {

struct Problem {
  int64_t rows, vocab, padded_vocab;
  double gradient_scale = 1;
  std::vector<double> logits;
  std::vector<int32_t> targets;

  Problem(int64_t rows_, int64_t vocab_, int64_t padded, double scale = 1)
      : rows(rows_),
        vocab(vocab_),
        padded_vocab(padded),
        gradient_scale(scale),
        logits(random_values(static_cast<size_t>(rows_ * padded), 3, 2)) {
    for (int64_t n = 0; n < rows; ++n) targets.push_back(static_cast<int32_t>(n % 5 == 3 ? -1 : (n * 7919) % vocab));
  }
};

struct Result {
  HostTensor losses, logits;
};

Result run(DType dtype, const Problem& p, bool write_gradient = true) {
  Result result{HostTensor(accumulate_type(dtype), {p.rows}), HostTensor(dtype, {p.rows, p.padded_vocab}, p.logits)};
  Stream stream(cpu_runtime());
  ops::cross_entropy(stream, result.losses, result.logits, HostTensor::indices(p.targets), p.vocab, p.gradient_scale,
                     write_gradient);
  return result;
}

// A loss is a logarithm of a sum and a difference of logits of size 10: 16 ε absolute. A gradient has the relative
// error of exp (1 ulp, and ε·|logit - maximum|) and of the sum (at most √V of its terms' ε), then T's rounding.
void check_against_reference(DType dtype, Problem p) {
  const Result fast = run(dtype, p);
  p.logits = HostTensor(dtype, {p.rows, p.padded_vocab}, p.logits).values();
  const Result exact = run(DType::kF64, p);
  const std::vector<double> loss = exact.losses.values(), gradient = exact.logits.values();
  const double eps = 2 * tolerances::unit_roundoff(DType::kF32);
  const double rounding = dtype == DType::kBF16 ? tolerances::unit_roundoff(dtype) : 0;
  INFO("rows " << p.rows << ", vocab " << p.vocab << ", padded " << p.padded_vocab);
  check_within(fast.losses.values(), loss, [&](size_t n) { return 16 * eps * (1 + loss[n]); });
  check_within(fast.logits.values(), gradient, [&](size_t x) {
    // The gradient of the target, softmax - 1, cancels: there the error is absolute.
    const bool of_target = static_cast<int32_t>(x % p.padded_vocab) == p.targets[x / p.padded_vocab];
    const double size = std::abs(gradient[x]);
    return 32 * eps * (of_target ? p.gradient_scale : size) + rounding * size;
  });
}

}  // namespace

// Kills: a gradient without the -1 at the target, without the scale, or of a row that is not scored.
TEST_CASE("the reference gradient of cross-entropy is the complex step of its losses", "[ops][cross_entropy]") {
  for (int64_t vocab : {1, 5, 7}) {
    const Problem p(6, vocab, vocab + 2, 1);
    const std::vector<double> expected = complex_step_gradient(
        p.logits, std::vector<double>(static_cast<size_t>(p.rows), 0.25), [&](std::vector<Complex> logits) {
          std::vector<Complex> losses(static_cast<size_t>(p.rows));
          ref::cross_entropy(losses.data(), logits.data(), p.targets.data(), p.rows, p.vocab, p.padded_vocab, 1, false);
          return losses;
        });
    Problem scaled = p;
    scaled.gradient_scale = 0.25;
    check_close(run(DType::kF64, scaled).logits.values(), expected, 1e-12);
  }
}

// Kills: a tail of the row left out of the sum, padding counted in, an online sum that is not rescaled.
TEST_CASE("cross-entropy in f32 and bf16 is the reference at every size", "[ops][cross_entropy]") {
  for (int64_t vocab : {1, 31, 33, 127, 1023, 1025, 5000}) {
    for (int64_t padding : {0, 3, 64}) {
      check_against_reference(DType::kF32, Problem(33, vocab, vocab + padding, 0.125));
      check_against_reference(DType::kBF16, Problem(33, vocab, vocab + padding, 0.125));
    }
  }
  check_against_reference(DType::kF32, Problem(4, 50257, 50304));
  check_against_reference(DType::kBF16, Problem(4, 50257, 50304));
  check_against_reference(DType::kF32, Problem(2, 60000, 60000));  // beyond the shared memory of any GPU
  check_against_reference(DType::kBF16, Problem(2, 120'000, 120'000));
  check_against_reference(DType::kF32, Problem(0, 7, 8));
}

// Kills: an online maximum that only sees the first block; exponentials of positive numbers.
TEST_CASE("logits of ten thousand anywhere in the row give a finite and right loss", "[ops][cross_entropy]") {
  for (int64_t place : {0, 1500, 2999}) {
    Problem p(2, 3000, 3008);
    for (double& x : p.logits) x *= 100;
    p.logits[static_cast<size_t>(place)] = 1e4;
    p.logits[static_cast<size_t>(p.padded_vocab + place)] = -1e4;
    p.targets = {static_cast<int32_t>(place), static_cast<int32_t>(place)};
    const Result fast = run(DType::kF32, p), exact = run(DType::kF64, p);
    CHECK(fast.losses.values()[0] == 0);
    CHECK(fast.losses.values()[1] == Approx(exact.losses.values()[1]).epsilon(1e-6));
    CHECK(fast.logits.values()[static_cast<size_t>(place)] == 0);
    CHECK(fast.logits.values()[static_cast<size_t>(p.padded_vocab + place)] == -1);
  }
}

// Kills: an index out of bounds for a bad target, or a message that does not find it.
TEST_CASE("a target out of range is an error that names row and id", "[ops][cross_entropy][cpu]") {
  for (int32_t bad : {7, -2, 1 << 30}) {
    Problem p(5, 7, 8);
    p.targets[2] = bad;
    try {
      run(DType::kF32, p);
      FAIL("no error");
    } catch (const RunError& e) {
      CHECK(std::string(e.what()).find("row 2 has target " + std::to_string(bad)) != std::string::npos);
    }
  }
}

// Kills: NaN lost in the maximum; padding read.
TEST_CASE("NaN in a scored logit is a NaN loss and NaN in padding is not seen", "[ops][cross_entropy]") {
  for (int64_t place : {0, 17, 1999}) {
    Problem p(3, 2000, 2016);
    p.logits[static_cast<size_t>(p.padded_vocab + place)] = std::nan("");
    for (int64_t v = p.vocab; v < p.padded_vocab; ++v) p.logits[static_cast<size_t>(v)] = std::nan("");
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      const Result result = run(dtype, p);
      const std::vector<double> loss = result.losses.values();
      CHECK((std::isfinite(loss[0]) && std::isnan(loss[1]) && std::isfinite(loss[2])));
      for (int64_t v = p.vocab; v < p.padded_vocab; ++v) CHECK(result.logits.values()[static_cast<size_t>(v)] == 0);
    }
  }
}

// Kills: writing the gradient in evaluation.
TEST_CASE("without a gradient the losses are the same and the logits stay", "[ops][cross_entropy]") {
  const Problem p(9, 300, 320);
  const Result with = run(DType::kF32, p, true), without = run(DType::kF32, p, false);
  CHECK(with.losses.bytes() == without.losses.bytes());
  CHECK(without.logits.bytes() == HostTensor(DType::kF32, {p.rows, p.padded_vocab}, p.logits).bytes());
  CHECK(with.losses.values()[3] == 0);
}

// Kills: rows cut by the number of threads.
TEST_CASE("cross-entropy gives the same bits for any number of threads", "[ops][cross_entropy]") {
  const Problem p(257, 300, 304);
  check_same_on_any_threads([&] {
    const Result result = run(DType::kF32, p);
    return std::pair(result.losses.bytes(), result.logits.bytes());
  });
}
