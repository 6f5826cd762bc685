#include "kernels/ops.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/complex_step.h"
#include "support/host_tensor.h"
#include "support/tolerances.h"

#include <cmath>
#include <vector>

using namespace sffn;
using namespace sffn::test;

namespace {

struct AdamWStep {
  double learning_rate = 0;
  AdamWOptions options;
  double step = 1, gradient_scale = 1, applied = 1;

  HostTensor numbers() const {
    std::vector<double> all(update::kCount, NAN);
    all[update::kLearningRate] = learning_rate, all[update::kStep] = step;
    all[update::kApplied] = applied, all[update::kGradientScale] = gradient_scale;
    return HostTensor(DType::kF64, {update::kCount}, all);
  }
};

AdamWStep some_step() {
  return {.learning_rate = 3e-3,
          .options = {.beta1 = 0.9, .beta2 = 0.98, .eps = 1e-8, .weight_decay = 0.1},
          .step = 3,
          .gradient_scale = 0.7};
}

struct AdamWCase {
  HostTensor w, rounded, m, v, grad;

  AdamWCase(DType dtype, int64_t n) {
    const auto draw = [&](uint64_t stream) { return random_values(static_cast<size_t>(n), stream); };
    std::vector<double> squares = draw(3);
    for (double& x : squares) x *= x;
    w = HostTensor(dtype, {n}, draw(1)), rounded = HostTensor(DType::kBF16, {n});
    m = HostTensor(dtype, {n}, draw(2)), v = HostTensor(dtype, {n}, squares);
    grad = HostTensor(dtype, {n}, draw(4));
  }
  void run(const AdamWStep& step) {
    Stream stream(cpu_runtime());
    ops::adamw(stream, w, rounded, m, v, grad, step.numbers(), step.options);
  }
  std::vector<std::byte> bytes() const {
    std::vector<std::byte> all = w.bytes();
    for (const HostTensor* t : {&rounded, &m, &v}) all.insert(all.end(), t->bytes().begin(), t->bytes().end());
    return all;
  }
};

}  // namespace

// Kills: decay inside the gradient (Adam with L2), eps inside the root, a missing bias correction.
TEST_CASE("the first steps of AdamW are those computed by hand", "[ops][adamw]") {
  const DType dtype = GENERATE(DType::kF32, DType::kF64);
  HostTensor w(dtype, {1}, {1}), m(dtype, {1}), v(dtype, {1}), grad(dtype, {1}, {0.5});
  AdamWStep s;
  s.learning_rate = 0.1, s.options = {.beta1 = 0.9, .beta2 = 0.99, .eps = 0.5, .weight_decay = 0.2};
  Stream stream(cpu_runtime());
  ops::adamw(stream, w, Tensor(), m, v, grad, s.numbers(), s.options);
  // m̂ = 0.5, √v̂ = 0.5: w = 1 - 0.1·(0.5/(0.5 + 0.5) + 0.2)
  CHECK(w.values()[0] == Approx(0.93).epsilon(1e-6));
  s.step = 2, s.gradient_scale = 0;
  ops::adamw(stream, w, Tensor(), m, v, grad, s.numbers(), s.options);
  // m = 0.045, v = 0.002475: m̂ = 0.045/0.19, v̂ = 0.002475/0.0199
  const double step = 0.045 / 0.19 / (std::sqrt(0.002475 / 0.0199) + 0.5);
  CHECK(w.values()[0] == Approx(0.93 - 0.1 * (step + 0.2 * 0.93)).epsilon(1e-6));
}

// Kills: an approximate root or division, constants of the wrong precision, a lost remainder.
TEST_CASE("AdamW in f32 agrees with double", "[ops][adamw]") {
  const AdamWStep s = some_step();
  for (int64_t n : {0, 1, 31, 33, 127, 20'000}) {
    AdamWCase low(DType::kF32, n), ref(DType::kF32, n);
    const auto w0 = low.w.values(), m0 = low.m.values(), grad = low.grad.values();
    for (HostTensor* t : {&ref.w, &ref.m, &ref.v, &ref.grad}) *t = t->as(DType::kF64);
    low.run(s);
    ref.run(s);
    const auto w = ref.w.values(), m = ref.m.values(), v = ref.v.values();
    const auto m_scale = [&](size_t i) { return 0.9 * std::abs(m0[i]) + 0.1 * s.gradient_scale * std::abs(grad[i]); };
    check_within(low.m.values(), m,
                 [&](size_t i) { return tolerances::elementwise(4, m_scale(i), m[i], DType::kF32); });
    check_within(low.v.values(), v, [&](size_t i) { return tolerances::elementwise(6, v[i], v[i], DType::kF32); });
    check_within(low.w.values(), w, [&](size_t i) {
      const double direction = m_scale(i) / 0.271 / (std::sqrt(v[i] / (1 - std::pow(0.98, 3))) + s.options.eps);
      return tolerances::elementwise(16, s.learning_rate * direction, 0, DType::kF32) +
             tolerances::elementwise(2, std::abs(w0[i]), w[i], DType::kF32);
    });
    CHECK(low.rounded.bytes() == low.w.as(DType::kBF16).bytes());
  }
}

// Kills: an update that does not look whether it is to take place.
TEST_CASE("AdamW changes nothing where the numbers of the update say so", "[ops][adamw]") {
  for (const DType dtype : {DType::kF32, DType::kF64}) {
    AdamWCase c(dtype, 300);
    const auto before = c.bytes();
    AdamWStep step = some_step();
    step.applied = 0;
    c.run(step);
    CHECK(c.bytes() == before);
  }
}

// Kills: vector body and remainder that round differently, so that ranges of ranks would change the weights.
TEST_CASE("AdamW on any cut of the range gives the same bits as on the whole", "[ops][adamw]") {
  AdamWCase whole(DType::kF32, 1000), pieces = whole;
  whole.run(some_step());
  Stream stream(cpu_runtime());
  int64_t first = 0;
  for (int64_t count : {1, 30, 33, 127, 5, 304, 500}) {
    const auto part = [&](const HostTensor& t) { return t.tensor().slice(first, count); };
    ops::adamw(stream, part(pieces.w), part(pieces.rounded), part(pieces.m), part(pieces.v), part(pieces.grad),
               some_step().numbers(), some_step().options);
    first += count;
  }
  REQUIRE(first == 1000);
  CHECK(pieces.bytes() == whole.bytes());
}

// Kills: chunks cut by threads, each with a remainder of its own.
TEST_CASE("AdamW gives the same bits for any number of threads", "[ops][adamw]") {
  check_same_on_any_threads([] {
    AdamWCase c(DType::kF32, 100'003);
    c.run(some_step());
    return c.bytes();
  });
}
