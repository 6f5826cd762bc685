#include "kernels/ref/cross_entropy.h"

#include "support/catch.h"

#include "ops/attention_case.h"

#include <algorithm>
#include <cmath>
#include <limits>

#ifdef _OPENMP
#include <omp.h>
#endif

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

template <class T>
struct Result {
  std::vector<cpu::AccumulateOf<T>> losses;
  std::vector<T> logits;
};

template <class T>
Result<T> run(const Problem& p, bool write_gradient = true) {
  Result<T> result{std::vector<cpu::AccumulateOf<T>>(static_cast<size_t>(p.rows)), converted<T>(p.logits)};
  std::vector<int32_t> targets = p.targets;
  Stream stream(cpu_runtime());
  ops::cross_entropy(stream, tensor_of(result.losses, {p.rows}), tensor_of(result.logits, {p.rows, p.padded_vocab}),
                     tensor_of(targets, {p.rows}), p.vocab, p.gradient_scale, write_gradient);
  return result;
}

// A loss is a logarithm of a sum and a difference of logits of size 10: 16 ε absolute. A gradient has the relative
// error of exp (1 ulp, and ε·|logit - maximum|) and of the sum (at most √V of its terms' ε), then T's rounding.
template <class T>
void check_against_reference(Problem p) {
  const Result<T> fast = run<T>(p);
  p.logits = widened(converted<T>(p.logits));
  const Result<double> exact = run<double>(p);
  const double eps = std::numeric_limits<float>::epsilon(), rounding = std::is_same_v<T, bfloat16> ? 0x1p-8 : 0;
  INFO("rows " << p.rows << ", vocab " << p.vocab << ", padded " << p.padded_vocab);
  for (int64_t n = 0; n < p.rows; ++n) {
    CHECK(std::abs(fast.losses[n] - exact.losses[n]) <= 16 * eps * (1 + exact.losses[n]));
  }
  double worst = 0;
  for (size_t x = 0; x < exact.logits.size(); ++x) {
    const double error = std::abs(static_cast<double>(fast.logits[x]) - exact.logits[x]);
    // The gradient of the target, softmax - 1, cancels: there the error is absolute.
    const bool of_target = static_cast<int32_t>(x % p.padded_vocab) == p.targets[x / p.padded_vocab];
    const double size = std::abs(exact.logits[x]);
    const double allowed = 32 * eps * (of_target ? p.gradient_scale : size) + rounding * size;
    worst = std::max(worst, exact.logits[x] == 0 && !of_target ? error * 1e9 : error / allowed);
  }
  CHECK(worst <= 1);
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
    check_close(run<double>(scaled).logits, expected, 1e-12);
  }
}

// Kills: a tail of the row left out of the sum, padding counted in, an online sum that is not rescaled.
TEST_CASE("cross-entropy in f32 and bf16 is the reference at every size", "[ops][cross_entropy]") {
  for (int64_t vocab : {1, 31, 33, 127, 1023, 1025, 5000}) {
    for (int64_t padding : {0, 3, 64}) {
      check_against_reference<float>(Problem(33, vocab, vocab + padding, 0.125));
      check_against_reference<bfloat16>(Problem(33, vocab, vocab + padding, 0.125));
    }
  }
  check_against_reference<float>(Problem(4, 50257, 50304));
  check_against_reference<bfloat16>(Problem(4, 50257, 50304));
  check_against_reference<float>(Problem(0, 7, 8));
}

// Kills: an online maximum that only sees the first block; exponentials of positive numbers.
TEST_CASE("logits of ten thousand anywhere in the row give a finite and right loss", "[ops][cross_entropy]") {
  for (int64_t place : {0, 1500, 2999}) {
    Problem p(2, 3000, 3008);
    for (double& x : p.logits) x *= 100;
    p.logits[static_cast<size_t>(place)] = 1e4;
    p.logits[static_cast<size_t>(p.padded_vocab + place)] = -1e4;
    p.targets = {static_cast<int32_t>(place), static_cast<int32_t>(place)};
    const Result<float> fast = run<float>(p);
    const Result<double> exact = run<double>(p);
    CHECK(fast.losses[0] == 0);
    CHECK(fast.losses[1] == Approx(exact.losses[1]).epsilon(1e-6));
    CHECK(fast.logits[static_cast<size_t>(place)] == 0);
    CHECK(fast.logits[static_cast<size_t>(p.padded_vocab + place)] == -1);
  }
}

// Kills: an index out of bounds for a bad target, or a message that does not find it.
TEST_CASE("a target out of range is an error that names row and id", "[ops][cross_entropy]") {
  for (int32_t bad : {7, -2, 1 << 30}) {
    Problem p(5, 7, 8);
    p.targets[2] = bad;
    const std::vector<float> before = converted<float>(p.logits);
    try {
      run<float>(p);
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
    const Result<float> f32 = run<float>(p);
    const Result<bfloat16> bf16 = run<bfloat16>(p);
    CHECK((std::isfinite(f32.losses[0]) && std::isfinite(bf16.losses[0])));
    CHECK((std::isnan(f32.losses[1]) && std::isnan(bf16.losses[1])));
    for (int64_t v = p.vocab; v < p.padded_vocab; ++v) CHECK(f32.logits[static_cast<size_t>(v)] == 0);
  }
}

// Kills: writing the gradient in evaluation.
TEST_CASE("without a gradient the losses are the same and the logits stay", "[ops][cross_entropy]") {
  const Problem p(9, 300, 320);
  const Result<float> with = run<float>(p, true), without = run<float>(p, false);
  CHECK(with.losses == without.losses);
  CHECK(without.logits == converted<float>(p.logits));
  CHECK(with.losses[3] == 0);
}

// Kills: rows cut by the number of threads.
TEST_CASE("cross-entropy gives the same bits for any number of threads", "[ops][cross_entropy]") {
#ifdef _OPENMP
  const Problem p(257, 300, 304);
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  const Result<float> one = run<float>(p);
  for (int threads : {2, 4}) {
    omp_set_num_threads(threads);
    const Result<float> many = run<float>(p);
    CHECK(many.losses == one.losses);
    CHECK(many.logits == one.logits);
  }
  omp_set_num_threads(before);
#endif
}
