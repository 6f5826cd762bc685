#include "kernels/ref/block_aggregate.h"

#include "kernels/ops.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/complex_step.h"
#include "support/error_of.h"
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
    for (int64_t G : {1, 31, 33, 127}) {
      for (int64_t D : {1, 31, 33, 127, 300}) {
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
