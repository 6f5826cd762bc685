#include "kernels/ops.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/complex_step.h"
#include "support/host_tensor.h"
#include "support/tolerances.h"

#include <cmath>

using namespace sffn;
using namespace sffn::test;

namespace {

struct WeighCase {
  HostTensor dh, dweights, h, weights, inverse;

  // N tokens of 2 choices; the rows reversed, with every fifth choice dropped, or (not sorted) in order.
  WeighCase(DType dtype, int64_t N, int64_t G, bool sorted, bool integers) {
    const int64_t P = 2 * N;
    const auto draw = [&](int64_t count, uint64_t stream) {
      const auto n = static_cast<size_t>(count);
      return integers ? integer_values(n, stream, 3) : random_values(n, stream);
    };
    h = HostTensor(dtype, {P, G}, draw(P * G, 1)), dh = HostTensor(dtype, {P, G}, draw(P * G, 2));
    weights = HostTensor(accumulate_type(dtype), {N, 2}, draw(P, 3));
    dweights = HostTensor(accumulate_type(dtype), {N, 2}, std::vector<double>(static_cast<size_t>(P), 77));
    if (!sorted) return;
    std::vector<int32_t> rows(static_cast<size_t>(P));
    for (int64_t c = 0; c < P; ++c) rows[c] = c % 5 == 4 ? -1 : static_cast<int32_t>(P - 1 - c);
    inverse = HostTensor::indices(rows);
  }
  WeighCase as(DType dtype) const {
    WeighCase c = *this;
    for (HostTensor* t : {&c.dh, &c.dweights, &c.h, &c.weights}) *t = t->as(dtype);
    return c;
  }
  void run() {
    Stream stream(cpu_runtime());
    ops::weigh_backward(stream, dh, dweights, h, weights, inverse);
  }
};

}  // namespace

// Kills: the product taken after dh was scaled, a wrong row, a dropped choice read or left as it was.
TEST_CASE("the backward of weighing is exact on integers", "[ops][blocks]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  const bool sorted = GENERATE(false, true);
  for (int64_t G : {1, 31, 33, 40, 127}) {
    for (int64_t N : {0, 1, 31, 700}) {
      WeighCase low(dtype, N, G, sorted, true), ref = low.as(DType::kF64);
      low.run();
      ref.run();
      INFO("N " << N << " G " << G);
      CHECK(low.dweights.values() == ref.dweights.values());
      CHECK(low.dh.values() == ref.dh.values());
    }
  }
}

// Kills: products summed or weights rounded in bf16.
TEST_CASE("the backward of weighing stays within the bound of its sums", "[ops][blocks]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  for (int64_t G : {3, 300}) {
    WeighCase low(dtype, 100, G, true, false), ref = low.as(DType::kF64);
    const auto h = ref.h.values(), dh = ref.dh.values(), rows = ref.inverse.values();
    low.run();
    ref.run();
    const auto dweights = ref.dweights.values(), scaled = ref.dh.values();
    check_within(low.dweights.values(), dweights, [&](size_t c) {
      double magnitude = 0;
      for (int64_t j = 0; j < G && rows[c] >= 0; ++j) {
        const auto e = static_cast<size_t>(rows[c]) * G + j;
        magnitude += std::abs(h[e] * dh[e]);
      }
      return tolerances::sum_of_products(G, magnitude, dweights[c], DType::kF32);
    });
    check_within(low.dh.values(), scaled,
                 [&](size_t e) { return tolerances::elementwise(1, std::abs(scaled[e]), scaled[e], dtype); });
  }
}

// Kills: chunks that overlap.
TEST_CASE("the backward of weighing has the same bits for any number of threads", "[ops][blocks][threads]") {
  check_same_on_any_threads([] {
    WeighCase c(DType::kF32, 3000, 33, true, false);
    c.run();
    return std::pair{c.dh.bytes(), c.dweights.bytes()};
  });
}
