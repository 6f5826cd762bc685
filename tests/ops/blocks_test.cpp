#include "kernels/ref/blocks.h"

#include "support/catch.h"

#include "block_case.h"

#include <utility>

using namespace sffn;
using namespace sffn::test;

namespace {

// The block products of one routing: a forward and a backward pass, with and without weights.
struct BlockCase {
  BlockSizes sizes;
  HostRouting routing;
  HostTensor x, w, cell_bias, weights, h, y, out_bias;  // inputs; y is added to
  HostTensor z, y_plain, dw, dw_plain, dbias;           // results; the gradients are added to

  BlockCase(const BlockSizes& s, DType dtype, bool integers) : sizes(s), routing(s, chosen_blocks(s)) {
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

std::vector<BlockSizes> block_sizes() {
  std::vector<BlockSizes> all;
  for (int64_t G : {1, 3, 16, 33}) {
    for (int64_t D : {1, 31, 33, 127}) {
      all.push_back({60, D, 5, G, 2, 60});
      all.push_back({60, D, 5, G, 3, 17, Choice::kSomeDropped});
    }
  }
  for (int64_t G : {1, 2, 8, 12, 70, 130}) {
    all.push_back({150, 96, 4, G, 1, 150, Choice::kOneBlock});
    all.push_back({33, 256, 3, G, 3, 16});  // b = B
    all.push_back({0, 31, 4, G, 2, 8});
    all.push_back({1, 129, 4, G, 4, 8});
    all.push_back({31, 65, 1, G, 1, 100});
  }
  return all;
}

}  // namespace

// Kills: a wrong row, block, token or cell, a lost tail of rows, cells or columns, unused rows left as they were,
// overwriting where results accumulate, weights or biases left out.
TEST_CASE("block products are exact on integers", "[ops][blocks]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  for (const BlockSizes& s : block_sizes()) {
    BlockCase low(s, dtype, true), ref = low.as(DType::kF64);
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
}
