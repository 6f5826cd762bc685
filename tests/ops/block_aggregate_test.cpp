#include "kernels/ref/block_aggregate.h"

#include "kernels/ops.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/complex_step.h"
#include "support/error_of.h"
#include "support/few_shapes.h"
#include "support/host_tensor.h"
#include "support/tolerances.h"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

using namespace sffn;
using namespace sffn::test;

namespace {

constexpr BlockAggregate kAll[] = {BlockAggregate::kMean,    BlockAggregate::kMin,    BlockAggregate::kMax,
                                   BlockAggregate::kMeanAbs, BlockAggregate::kL2Mean, BlockAggregate::kValueWeighted,
                                   BlockAggregate::kFirstPc};

struct AggregateCase {
  int64_t B, G, D;
  BlockAggregate aggregate;
  HostTensor keys, values, out, dout, dkeys;

  AggregateCase(DType dtype, BlockAggregate aggregate, int64_t B, int64_t G, int64_t D)
      : B(B), G(G), D(D), aggregate(aggregate) {
    const auto n = static_cast<size_t>(B * G * D);
    auto drawn = random_values(n, 1);
    for (int64_t d = 0; d < D; ++d) drawn[static_cast<size_t>(d)] = 0;  // a zero key
    for (size_t i = 0; i < n; ++i) drawn[i] += 0.3 * (i % static_cast<size_t>(D) == 0 && i > 0);
    keys = HostTensor(dtype, {B * G, D}, drawn);
    if (aggregate == BlockAggregate::kValueWeighted) values = HostTensor(dtype, {B * G, D}, random_values(n, 2));
    const DType acc = accumulate_type(dtype);
    out = HostTensor(acc, {B, D});
    dout = HostTensor(acc, {B, D}, random_values(static_cast<size_t>(B * D), 3));
    dkeys = HostTensor(acc, {B * G, D}, random_values(n, 4));
  }
  AggregateCase as(DType dtype) const {
    AggregateCase c = *this;
    for (HostTensor* t : {&c.keys, &c.values, &c.out, &c.dout, &c.dkeys}) *t = t->as(dtype);
    return c;
  }
  void run() {
    Stream stream(cpu_runtime());
    ops::block_aggregate_forward(stream, out, keys, values, aggregate);
    ops::block_aggregate_backward(stream, dkeys, dout, keys, aggregate);
  }
};

std::vector<double> aggregate_of(BlockAggregate aggregate, int64_t B, int64_t G, const std::vector<double>& keys,
                                 const std::vector<double>& values = {}, DType dtype = DType::kF32) {
  const int64_t M = B * G, D = static_cast<int64_t>(keys.size()) / M;
  HostTensor out(dtype, {B, D});
  Stream stream(cpu_runtime());
  ops::block_aggregate_forward(stream, out, HostTensor(dtype, {M, D}, keys),
                               values.empty() ? HostTensor() : HostTensor(dtype, {M, D}, values), aggregate);
  return out.values();
}

// v·σ₁/√G of A [G,D] by one-sided Jacobi: columns are turned in pairs until all are orthogonal; the longest is σ₁u.
std::vector<double> dominant_component(std::vector<double> A, int64_t G, int64_t D) {
  const std::vector<double> block = A;
  std::vector<double> V(static_cast<size_t>(D * D));
  for (int64_t d = 0; d < D; ++d) V[d * D + d] = 1;
  const auto column_dot = [&](int64_t p, int64_t q) {
    double total = 0;
    for (int64_t j = 0; j < G; ++j) total += A[j * D + p] * A[j * D + q];
    return total;
  };
  const auto turn = [D](std::vector<double>& X, int64_t rows, int64_t p, int64_t q, double c, double s) {
    for (int64_t r = 0; r < rows; ++r) {
      const double x = X[r * D + p], y = X[r * D + q];
      X[r * D + p] = c * x - s * y;
      X[r * D + q] = s * x + c * y;
    }
  };
  for (int sweep = 0; sweep < 40; ++sweep) {
    for (int64_t p = 0; p < D; ++p) {
      for (int64_t q = p + 1; q < D; ++q) {
        const double cross = column_dot(p, q);
        if (std::abs(cross) < 1e-18) continue;
        const double angle = 0.5 * std::atan2(2 * cross, column_dot(q, q) - column_dot(p, p));
        turn(A, G, p, q, std::cos(angle), std::sin(angle));
        turn(V, D, p, q, std::cos(angle), std::sin(angle));
      }
    }
  }
  int64_t best = 0;
  for (int64_t d = 1; d < D; ++d) best = column_dot(d, d) > column_dot(best, best) ? d : best;
  const double scale = std::sqrt(column_dot(best, best) / static_cast<double>(G));
  std::vector<double> out(static_cast<size_t>(D));
  double with_mean = 0;
  for (int64_t d = 0; d < D; ++d) {
    out[d] = scale * V[d * D + best];
    for (int64_t j = 0; j < G; ++j) with_mean += out[d] * block[j * D + d];
  }
  for (double& x : out) x = with_mean < 0 ? -x : x;
  return out;
}

}  // namespace

// Kills: the wrong aggregate under a name, a block that reads its neighbour's keys.
TEST_CASE("block aggregates are right in a case by hand", "[ops][aggregate]") {
  const DType dtype = GENERATE(DType::kF32, DType::kF64);
  const std::vector<double> keys = {3, 4, -5, 0, 0, 0, 8, -6};  // two blocks of two keys of width two
  const auto is = [&](BlockAggregate aggregate, const std::vector<double>& expected,
                      const std::vector<double>& values = {}) {
    check_close(aggregate_of(aggregate, 2, 2, keys, values, dtype), expected, 1e-7);
  };
  is(BlockAggregate::kMean, {-1, 2, 4, -3});
  is(BlockAggregate::kMin, {-5, 0, 0, -6});
  is(BlockAggregate::kMax, {3, 4, 8, 0});
  is(BlockAggregate::kMeanAbs, {4, 2, 4, 3});
  is(BlockAggregate::kL2Mean, {-0.2, 0.4, 0.4, -0.3});
  is(BlockAggregate::kValueWeighted, {1, 3, 4, -3}, {0, 3, 1, 0, 0, 0, 0, 0});
}

// Kills: any term of the gradient of mean or l2_mean; a gradient through a zero key.
TEST_CASE("the reference aggregates' backward is the complex step of their forward", "[ops][aggregate]") {
  const int64_t B = 3, G = 4, D = 5;
  auto keys = random_values(B * G * D, 1);
  const auto values = random_values(B * G * D, 2), dout = random_values(B * D, 3);
  for (const BlockAggregate aggregate : kAll) {
    std::vector<double> dkeys(keys.size());
    ref::block_aggregate_backward(dkeys.data(), dout.data(), keys.data(), B, G, D, aggregate);
    const auto v = to_complex(values);
    INFO("aggregate " << static_cast<int>(aggregate));
    check_close(dkeys,
                complex_step_gradient(keys, dout,
                                      [&](const std::vector<Complex>& k) {
                                        std::vector<Complex> out(B * D);
                                        ref::block_aggregate_forward(out.data(), k.data(), v.data(), B, G, D,
                                                                     aggregate);
                                        return out;
                                      }),
                1e-12);
  }
}

// Kills: a strip border, a lost key, bf16 sums, a norm of the wrong row, dividing by zero for a zero key.
TEST_CASE("aggregates of f32 and bf16 keys are those of double", "[ops][aggregate]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  for (const BlockAggregate aggregate : kAll) {
    for (int64_t G : all_or_few({1, 31, 33, 127}, {33})) {
      for (int64_t D : all_or_few({1, 31, 33, 127, 300}, {31, 60})) {
        if (aggregate == BlockAggregate::kFirstPc && G * D > 5000) continue;  // judged below
        AggregateCase low(dtype, aggregate, 3, G, D), ref = low.as(DType::kF64);
        low.run();
        ref.run();
        INFO("aggregate " << static_cast<int>(aggregate) << ", G = " << G << ", D = " << D);
        const auto out = ref.out.values(), dkeys = ref.dkeys.values();
        check_within(low.out.values(), out,
                     [&](size_t i) { return tolerances::sum_of_products(G, 2, out[i], DType::kF32); });
        check_within(low.dkeys.values(), dkeys, [&](size_t i) {
          return tolerances::elementwise(16, 8 + std::abs(dkeys[i]), dkeys[i], DType::kF32);
        });
      }
    }
  }
}

// Kills: an iteration that stops early or at another component, σ₁ without √G, a singular vector of the centred block,
// a wrong sign, the Gram matrix of the longer side.
TEST_CASE("the first principal component is that of an independent decomposition", "[ops][aggregate]") {
  const DType dtype = GENERATE(DType::kF64, DType::kF32, DType::kBF16);
  for (const auto& [G, D] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 5}, {2, 2}, {5, 3}, {8, 40}, {40, 8}, {31, 33}, {33, 31}, {64, 100}, {127, 1}}) {
    const HostTensor keys(dtype, {G, D}, random_values(static_cast<size_t>(G * D), 5));
    HostTensor out(accumulate_type(dtype), {1, D});
    Stream stream(cpu_runtime());
    ops::block_aggregate_forward(stream, out, keys, Tensor(), BlockAggregate::kFirstPc);
    const auto expected = dominant_component(keys.values(), G, D);
    INFO("G = " << G << ", D = " << D);
    check_close(out.values(), expected, dtype == DType::kF64 ? 1e-9 : 1e-6);
  }
}

// Kills: an iteration that is right for small blocks of keys alone; a batch of many that reads the first.
TEST_CASE("first principal components of wide blocks, and of many, are right", "[ops][aggregate]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  const int64_t G = 130, D = 132;
  auto values = random_values(static_cast<size_t>(G * D), 5, 0.1);  // noise around one direction: few restarts
  for (int64_t e = 0; e < G * D; ++e) values[e] += std::cos(e / D) * std::sin(e % D);
  const HostTensor keys(dtype, {G, D}, values);
  HostTensor wide(DType::kF32, {1, D}), exact(DType::kF64, {1, D});
  Stream stream(cpu_runtime());
  ops::block_aggregate_forward(stream, wide, keys, Tensor(), BlockAggregate::kFirstPc);
  ops::block_aggregate_forward(stream, exact, keys.as(DType::kF64), Tensor(), BlockAggregate::kFirstPc);
  check_close(wide.values(), exact.values(), 1e-6);

  const int64_t B = few_shapes() ? 60 : 7500;
  const HostTensor single(dtype, {B, 2}, random_values(2 * B, 6));  // a block of one key is that key
  HostTensor out(DType::kF32, {B, 2});
  ops::block_aggregate_forward(stream, out, single, Tensor(), BlockAggregate::kFirstPc);
  check_close(out.values(), single.values(), 1e-6);
}

// Kills: a part of a long row left out of its norm or gradient.
TEST_CASE("aggregates of wide keys are those of double", "[ops][aggregate]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  for (const BlockAggregate aggregate :
       {BlockAggregate::kMean, BlockAggregate::kL2Mean, BlockAggregate::kValueWeighted}) {
    for (int64_t D : {2048, 2052, 2501}) {
      AggregateCase low(dtype, aggregate, 2, 3, D), ref = low.as(DType::kF64);
      low.run();
      ref.run();
      INFO("aggregate " << static_cast<int>(aggregate) << ", D = " << D);
      const auto out = ref.out.values(), dkeys = ref.dkeys.values();
      check_within(low.out.values(), out,
                   [&](size_t i) { return tolerances::sum_of_products(3, 2, out[i], DType::kF32); });
      check_within(low.dkeys.values(), dkeys, [&](size_t i) {
        return tolerances::elementwise(16, 8 + std::abs(dkeys[i]), dkeys[i], DType::kF32);
      });
    }
  }
}

// Kills: a start vector that the answer is orthogonal to, a relative test that divides by zero, scales out of range.
TEST_CASE("the first principal component of special blocks is known", "[ops][aggregate]") {
  const auto pc = [](int64_t G, const std::vector<double>& keys) {
    return aggregate_of(BlockAggregate::kFirstPc, 1, G, keys, {}, DType::kF64);
  };
  CHECK(pc(3, std::vector<double>(6, 0)) == std::vector<double>{0, 0});
  check_close(pc(2, {3, 4, 3, 4}), {3, 4}, 1e-12);     // equal keys: their mean
  check_close(pc(2, {3, -4, -3, 4}), {-3, 4}, 1e-12);  // mean 0: the largest element is positive
  check_close(pc(2, {-3, -4, -1e-9, 0}), {-3 / std::sqrt(2), -4 / std::sqrt(2)}, 1e-8);
  const auto tiny = pc(2, {3e-20, 4e-20, 3e-20, 4e-20});
  check_close({tiny[0] * 1e20, tiny[1] * 1e20}, {3, 4}, 1e-12);
  // Two equal singular values leave the direction open, not the length: σ₁/√G.
  const auto open = pc(2, {2, 0, 0, 2});
  check_close({std::hypot(open[0], open[1])}, {std::sqrt(2)}, 1e-12);
}

// Kills: the largest element read before the thread that owns it has written it, which ThreadSanitizer sees.
TEST_CASE("of two opposite keys the component is the one whose largest element is positive", "[ops][aggregate]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  const int64_t D = 40;
  std::vector<double> keys(2 * D), expected(D);
  for (int64_t d = 0; d < D; ++d) {
    keys[d] = d == 33 ? -4 : static_cast<double>(d % 3);
    keys[D + d] = expected[d] = -keys[d];
  }
  HostTensor out(DType::kF32, {1, D});
  Stream stream(cpu_runtime());
  ops::block_aggregate_forward(stream, out, HostTensor(dtype, {2, D}, keys), Tensor(), BlockAggregate::kFirstPc);
  check_close(out.values(), expected, 1e-6);
}

// Kills: minimum and maximum that lose NaN; a mean that does.
TEST_CASE("a NaN among the keys reaches the aggregate", "[ops][aggregate]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16, DType::kF64);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const BlockAggregate aggregate : {BlockAggregate::kMean, BlockAggregate::kMin, BlockAggregate::kMax,
                                         BlockAggregate::kMeanAbs, BlockAggregate::kL2Mean, BlockAggregate::kFirstPc}) {
    for (size_t place : {0, 1, 2}) {
      std::vector<double> keys = {1, 2, 3};
      keys[place] = nan;
      HostTensor out(accumulate_type(dtype), {1, 1});
      Stream stream(cpu_runtime());
      ops::block_aggregate_forward(stream, out, HostTensor(dtype, {3, 1}, keys), Tensor(), aggregate);
      INFO("aggregate " << static_cast<int>(aggregate) << ", place " << place);
      CHECK(std::isnan(out.values()[0]));
    }
  }
}

// Kills: sums per thread, scratch shared by threads.
TEST_CASE("aggregates give the same bits for any number of threads", "[ops][aggregate]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  for (const BlockAggregate aggregate : kAll) {
    check_same_on_any_threads([&] {
      AggregateCase c(dtype, aggregate, 20, 16, 200);
      c.run();
      return std::pair(c.out.bytes(), c.dkeys.bytes());
    });
  }
}

// Kills: a check forgotten for one argument.
TEST_CASE("block aggregates refuse tensors that do not fit", "[ops][aggregate][contract]") {
  Stream s(cpu_runtime());
  const auto outline = [](Shape shape, DType dtype = DType::kF32) {
    return Tensor(nullptr, shape, dtype, Device::cpu());
  };
  const Tensor keys = outline({12, 5}, DType::kBF16), out = outline({3, 5}), none;
  const auto refused = [](const std::string& start, auto&& run) {
    const std::string error = error_of(run).what;
    INFO(start << " | " << error);
    CHECK(error.rfind(start, 0) == 0);
  };
  const auto forward = [&](Tensor out, Tensor keys, Tensor values, BlockAggregate aggregate) {
    return [=, &s] { ops::block_aggregate_forward(s, out, keys, values, aggregate); };
  };
  refused("block_aggregate_forward: out ", forward(outline({3, 5}, DType::kBF16), keys, none, BlockAggregate::kMean));
  refused("block_aggregate_forward: out ", forward(outline({3, 4}), keys, none, BlockAggregate::kMean));
  refused("block_aggregate_forward: 12 cells in 5 blocks", forward(outline({5, 5}), keys, none, BlockAggregate::kMean));
  refused("block_aggregate_forward: keys ", forward(out, outline({12}), none, BlockAggregate::kMean));
  refused("block_aggregate_forward: values ", forward(out, keys, keys, BlockAggregate::kMean));
  refused("block_aggregate_forward: values ", forward(out, keys, none, BlockAggregate::kValueWeighted));
  refused("block_aggregate_backward: dkeys ",
          [&] { ops::block_aggregate_backward(s, keys, out, keys, BlockAggregate::kMean); });
  refused("block_aggregate_backward: dout ", [&] {
    ops::block_aggregate_backward(s, outline({12, 5}), keys, keys, BlockAggregate::kMean);
  });
}
