// The ops over sorted rows on one routing, and what they must give.
#pragma once
#include "kernels/ops.h"
#include "support/catch.h"

#include "block_case.h"

#include <cmath>
#include <utility>

namespace sffn::test {

// The block products of one routing: a forward and a backward pass, with and without weights.
struct BlockCase {
  BlockSizes sizes;
  HostRouting routing;
  HostTensor x, w, cell_bias, weights, h, y, out_bias;  // inputs; y is added to
  HostTensor z, y_plain, dw, dw_plain, dbias;           // results; the gradients are added to

  BlockCase(const BlockSizes& s, DType dtype, bool integers) : BlockCase(s, dtype, integers, chosen_blocks(s)) {}
  BlockCase(const BlockSizes& s, DType dtype, bool integers, const std::vector<int32_t>& blocks)
      : sizes(s), routing(s, blocks) {
    const DType acc = accumulate_type(dtype);
    auto draw = [&, stream = uint64_t{0}](DType type, Shape shape) mutable {
      const auto n = static_cast<size_t>(shape.numel());
      ++stream;
      return HostTensor(type, shape, integers ? integer_values(n, stream, 2) : random_values(n, stream));
    };
    x = draw(dtype, {s.N, s.D}), w = draw(dtype, {s.M(), s.D}), cell_bias = draw(acc, {s.M()});
    weights = draw(acc, {s.N, s.b}), h = draw(dtype, {s.P(), s.G}), y = draw(dtype, {s.N, s.D});
    out_bias = draw(acc, {s.D});
    dw = draw(acc, {s.M(), s.D}), dw_plain = draw(acc, {s.M(), s.D}), dbias = draw(acc, {s.M()});
    z = HostTensor(dtype, {s.P(), s.G}, std::vector<double>(static_cast<size_t>(s.P() * s.G), 77));
    y_plain = HostTensor(dtype, {s.N, s.D}, std::vector<double>(static_cast<size_t>(s.N * s.D), 77));
  }
  BlockCase as(DType dtype) const {
    BlockCase c = *this;
    for (HostTensor* t : {&c.x, &c.w, &c.cell_bias, &c.weights, &c.h, &c.y, &c.out_bias, &c.z, &c.y_plain, &c.dw,
                          &c.dw_plain, &c.dbias}) {
      *t = t->as(dtype);
    }
    return c;
  }
  // The same with every value's absolute one: results are then the sums of the magnitudes of their terms.
  BlockCase magnitudes() const {
    BlockCase c = as(DType::kF64);
    for (HostTensor* t :
         {&c.x, &c.w, &c.cell_bias, &c.weights, &c.h, &c.y, &c.out_bias, &c.dw, &c.dw_plain, &c.dbias}) {
      std::vector<double> values = t->values();
      for (double& value : values) value = std::abs(value);
      *t = HostTensor(DType::kF64, t->tensor().shape(), values);
    }
    return c;
  }
  void run() {
    Stream stream(cpu_runtime());
    const BlockRouting r = routing.tensors();
    ops::block_project(stream, z, x, w, cell_bias, r);
    ops::block_combine(stream, y, h, weights, w, out_bias, r, Accumulate::kYes);
    ops::block_combine(stream, y_plain, h, Tensor(), w, Tensor(), r, Accumulate::kNo);
    ops::block_weight_gradient(stream, dw, h, weights, x, r);
    ops::block_weight_gradient(stream, dw_plain, h, Tensor(), x, r);
    ops::block_bias_gradient(stream, dbias, h, r);
  }
  std::vector<std::pair<const char*, const HostTensor*>> results() const {
    return {{"z", &z},         {"y", &y}, {"y_plain", &y_plain}, {"dw", &dw}, {"dw_plain", &dw_plain},
            {"dbias", &dbias}, {"h", &h}};
  }
};

// That the results on small integers are those of the reference, rounded once.
inline void check_exact(const BlockSizes& s, DType dtype, const std::vector<int32_t>& blocks) {
  BlockCase low(s, dtype, true, blocks), ref = low.as(DType::kF64);
  low.run();
  ref.run();
  INFO(s.str() << " " << name_of(dtype));
  const auto results = low.results(), expected = ref.results();
  for (size_t i = 0; i < results.size(); ++i) {
    INFO(results[i].first);
    // Integers up to 256 are exact in bf16, larger ones are rounded once.
    CHECK(results[i].second->values() == expected[i].second->as(results[i].second->dtype()).values());
  }
}
inline void check_exact(const BlockSizes& s, DType dtype) { check_exact(s, dtype, chosen_blocks(s)); }

}  // namespace sffn::test
