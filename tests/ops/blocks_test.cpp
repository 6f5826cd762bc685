#include "kernels/ref/blocks.h"

#include "support/any_threads.h"
#include "support/catch.h"
#include "support/error_of.h"
#include "support/few_shapes.h"
#include "support/tolerances.h"

#include "block_products.h"

#include <cmath>
#include <string_view>
#include <utility>

using namespace sffn;
using namespace sffn::test;

namespace {

std::vector<BlockSizes> block_sizes() {
  std::vector<BlockSizes> all;
  for (int64_t G : all_or_few({1, 3, 16, 33}, {16, 33})) {
    for (int64_t D : all_or_few({1, 31, 33, 127}, {31, 127})) {
      all.push_back({60, D, 5, G, 2, 60});
      all.push_back({60, D, 5, G, 3, 17, Choice::kSomeDropped});
    }
  }
  for (int64_t G : all_or_few({1, 2, 7, 8, 12, 70, 130}, {7, 130})) {
    all.push_back({150, 96, 4, G, 1, 150, Choice::kOneBlock});
    all.push_back({33, 256, 3, G, 3, 16});  // b = B
    all.push_back({0, 31, 4, G, 2, 8});
    all.push_back({1, 129, 4, G, 4, 8});
    all.push_back({31, 65, 1, G, 1, 100});
  }
  // Rows of whole 16 bytes in bf16: parts of tiles along tokens, cells and columns, and several of them.
  for (int64_t G : all_or_few({8, 40, 64, 136}, {64, 136})) {
    all.push_back({150, 72, 4, G, 2, 60, Choice::kSomeDropped});
    all.push_back({300, 200, 3, G, 2, 300, Choice::kOneBlock});
  }
  return all;
}

// Values and gradients of the reference in Complex on one routing: two chunks, a dropped choice, an empty block.
struct ReferenceCase {
  static constexpr int64_t N = 5, D = 3, B = 4, G = 2, b = 2;
  const BlockSizes sizes{N, D, B, G, b, 3, Choice::kSomeDropped};
  const HostRouting routing{sizes, chosen_blocks(sizes)};
  const BlockRows rows{routing.tensors()};
  const std::vector<double> x = random_values(N * D, 1), w = random_values(B * G * D, 2),
                            bias = random_values(B * G, 3);
  const std::vector<double> h = random_values(N * b * G, 4), weights = random_values(N * b, 5);
  const std::vector<double> dz = random_values(N * b * G, 6), dy = random_values(N * D, 7);

  std::vector<Complex> project(const std::vector<Complex>& x_, const std::vector<Complex>& w_,
                               const std::vector<Complex>& bias_) const {
    std::vector<Complex> z(N * b * G);
    ref::block_project(z.data(), x_.data(), w_.data(), bias_.data(), rows, G, D);
    return z;
  }
  std::vector<Complex> combine(const std::vector<Complex>& h_, const std::vector<Complex>& weights_,
                               const std::vector<Complex>& w_) const {
    std::vector<Complex> y(N * D);
    ref::block_combine(y.data(), h_.data(), weights_.data(), w_.data(), static_cast<Complex*>(nullptr), rows,
                       Accumulate::kNo, G, D);
    return y;
  }
};

}  // namespace

// Kills: a reference backward that is not the derivative of its forward: a lost weight, a transposed block.
TEST_CASE("the reference gradients of block_project are the complex step of it", "[ops][blocks]") {
  const ReferenceCase c;
  const auto x = to_complex(c.x), w = to_complex(c.w), bias = to_complex(c.bias);
  std::vector<double> dx(c.x.size()), dw(c.w.size()), dbias(c.bias.size());
  const double* none = nullptr;
  ref::block_combine(dx.data(), c.dz.data(), none, c.w.data(), none, c.rows, Accumulate::kNo, c.G, c.D);
  ref::block_weight_gradient(dw.data(), c.dz.data(), none, c.x.data(), c.rows, c.G, c.D);
  ref::block_bias_gradient(dbias.data(), c.dz.data(), c.rows, c.G);
  check_close(dx, complex_step_gradient(c.x, c.dz, [&](const auto& at) { return c.project(at, w, bias); }), 1e-12);
  check_close(dw, complex_step_gradient(c.w, c.dz, [&](const auto& at) { return c.project(x, at, bias); }), 1e-12);
  check_close(dbias, complex_step_gradient(c.bias, c.dz, [&](const auto& at) { return c.project(x, w, at); }), 1e-12);
}

// Kills: as above, for the weights of the chosen blocks too.
TEST_CASE("the reference gradients of block_combine are the complex step of it", "[ops][blocks]") {
  const ReferenceCase c;
  const auto h = to_complex(c.h), w = to_complex(c.w), weights = to_complex(c.weights);
  std::vector<double> dh(c.h.size()), dw(c.w.size()), dweights(c.weights.size());
  const double* none = nullptr;
  ref::block_project(dh.data(), c.dy.data(), c.w.data(), none, c.rows, c.G, c.D);
  ref::weigh_backward(dh.data(), dweights.data(), c.h.data(), c.weights.data(), c.rows.inverse, c.N * c.b, c.G);
  ref::block_weight_gradient(dw.data(), c.h.data(), c.weights.data(), c.dy.data(), c.rows, c.G, c.D);
  check_close(dh, complex_step_gradient(c.h, c.dy, [&](const auto& at) { return c.combine(at, weights, w); }), 1e-12);
  check_close(dweights, complex_step_gradient(c.weights, c.dy, [&](const auto& at) { return c.combine(h, at, w); }),
              1e-12);
  check_close(dw, complex_step_gradient(c.w, c.dy, [&](const auto& at) { return c.combine(h, weights, at); }), 1e-12);
}

// Kills: a wrong row, block, token or cell, a lost tail of rows, cells or columns, unused rows left as they were,
// overwriting where results accumulate, weights or biases left out.
TEST_CASE("block products are exact on integers", "[ops][blocks]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  for (const BlockSizes& s : block_sizes()) check_exact(s, dtype);
}

// Kills: the second part of a chunk, slice of columns, range of rows or part of a block left out or misplaced.
TEST_CASE("block products that are cut into many units of work are exact on integers", "[ops][blocks]") {
  for (const BlockSizes& s : all_or_few<BlockSizes>({{2500, 300, 3, 5, 1, 2500},
                                                     {2500, 20, 4, 40, 2, 2500},
                                                     {9, 20, 2, 1100, 1, 9},
                                                     {2500, 70, 3, 20, 1, 2500, Choice::kOneBlock}},
                                                    {{9, 20, 2, 1100, 1, 9}})) {
    check_exact(s, DType::kF32);
  }
}

namespace {

// What a device adds to the bound of y: in bf16 it rounds the products that a token's sum is made of.
double rounded_products(std::string_view name, DType dtype, double magnitude) {
#ifdef SFFN_RUN_OP
  if (name.starts_with('y')) return dtype == DType::kBF16 ? tolerances::unit_roundoff(dtype) * magnitude : 0;
#endif
  (void)name, (void)dtype, (void)magnitude;
  return 0;
}

}  // namespace

// Kills: sums or weights kept in bf16, results rounded twice.
TEST_CASE("block products stay within the bounds of their sums", "[ops][blocks]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  for (const auto& [G, D] : all_or_few<std::pair<int64_t, int64_t>>(
           {{1, 127}, {1, 136}, {4, 127}, {33, 127}, {64, 127}, {64, 128}, {8, 80}}, {{1, 136}, {4, 127}, {8, 80}})) {
    const BlockSizes s{300, D, 6, G, 3, 100, Choice::kSomeDropped};
    BlockCase low(s, dtype, false), ref = low.as(DType::kF64), sums = low.magnitudes();
    low.run();
    ref.run();
    sums.run();
    INFO(s.str() << " " << name_of(dtype));
    const auto results = low.results(), expected = ref.results(), magnitudes = sums.results();
    for (size_t i = 0; i < results.size(); ++i) {
      INFO(results[i].first);
      const auto exact = expected[i].second->values(), magnitude = magnitudes[i].second->values();
      check_within(results[i].second->values(), exact, [&](size_t e) {
        const int64_t terms = std::max({s.D, s.b * s.G, s.N}) + 2;
        const DType out = results[i].second->dtype();
        return tolerances::sum_of_products(terms, magnitude[e], exact[e], out) +
               rounded_products(results[i].first, out, magnitude[e]);
      });
    }
  }
}

// Kills: rows of one token that are added at once, so that one is lost.
TEST_CASE("a token that chooses a block more than once gets every product", "[ops][blocks]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  for (const BlockSizes& s : {BlockSizes{40, 24, 2, 8, 5, 40}, BlockSizes{70, 33, 2, 3, 7, 33}}) {
    std::vector<int32_t> blocks;
    for (int64_t c = 0; c < s.P(); ++c) blocks.push_back(c % s.b < c / s.b % (s.b + 1) ? 0 : 1);
    check_exact(s, dtype, blocks);
  }
}

// Kills: units of work that depend on threads or share what they write.
TEST_CASE("block products have the same bits for any number of threads", "[ops][blocks][threads]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
#if SFFN_SIMT
  constexpr int64_t kTokens = 300;  // tiles of rows enough for many blocks of threads
#else
  constexpr int64_t kTokens = 2100;  // units of work for every thread
#endif
  for (const BlockSizes& s :
       {BlockSizes{kTokens, 100, 40, 12, 5, kTokens}, BlockSizes{kTokens, 100, 500, 1, 9, 256},
        BlockSizes{kTokens, 130, 3, 70, 1, kTokens, Choice::kOneBlock}, BlockSizes{kTokens, 136, 7, 72, 3, 400}}) {
    INFO(s.str());
    check_same_on_any_threads([&] {
      BlockCase c(s, dtype, false);
      c.run();
      std::vector<std::byte> bytes;
      for (const auto& [name, t] : c.results()) bytes.insert(bytes.end(), t->bytes().begin(), t->bytes().end());
      return bytes;
    });
  }
}

// Kills: a token's result that depends on which tokens are beside it.
TEST_CASE("a token has the same bits whatever tokens share its blocks", "[ops][blocks]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  for (const auto& [G, D] : {std::pair<int64_t, int64_t>{1, 100}, {8, 100}, {33, 100}, {8, 104}, {72, 104}}) {
    const BlockSizes all{64, D, 6, G, 2, 64}, one{1, D, 6, G, 2, 64};
    BlockCase many(all, dtype, false), alone(one, dtype, false);
    alone.w = many.w, alone.cell_bias = many.cell_bias, alone.out_bias = many.out_bias;
    const auto inverse = many.routing.inverse.values(), alone_inverse = alone.routing.inverse.values();
    const auto h = many.h.values();
    std::vector<double> h_alone(static_cast<size_t>(2 * G));
    const auto place = [&](const std::vector<double>& rows, int64_t i) { return static_cast<int64_t>(rows[i]) * G; };
    for (int64_t i = 0; i < 2; ++i) {
      std::copy_n(h.begin() + place(inverse, i), G, h_alone.begin() + place(alone_inverse, i));
    }
    alone.h = HostTensor(dtype, {2, G}, h_alone);
    many.run();
    alone.run();
    const auto many_z = many.z.values(), alone_z = alone.z.values();
    const auto many_y = many.y.values(), alone_y = alone.y.values();
    INFO("G " << G << " D " << D << " " << name_of(dtype));
    for (int64_t i = 0; i < 2; ++i) {
      const auto z = many_z.begin() + place(inverse, i);
      CHECK(std::equal(z, z + G, alone_z.begin() + place(alone_inverse, i)));
    }
    CHECK(std::equal(alone_y.begin(), alone_y.begin() + D, many_y.begin()));
  }
}

// Kills: FLOPs of block products left out of plans, counted by kept choices or as whole tables.
TEST_CASE("block products count the FLOPs of all choices on the meta device", "[ops][blocks]") {
  Stream s(meta_runtime());
  const auto meta = [](Shape shape, DType dtype = DType::kF32) {
    return Tensor(nullptr, shape, dtype, Device::meta());
  };
  const BlockRouting r{meta({20}, DType::kI32), meta({20}, DType::kI32), meta({13}, DType::kI32), 4, 2, 4};
  const Tensor x = meta({10, 7}), w = meta({12, 7}), z = meta({20, 3});
  ops::block_project(s, z, x, w, Tensor(), r);
  CHECK(s.counter().matmul_flops == 2 * 20 * 3 * 7);
  ops::block_combine(s, x, z, Tensor(), w, Tensor(), r, Accumulate::kNo);
  ops::block_weight_gradient(s, w, z, Tensor(), x, r);
  CHECK(s.counter().matmul_flops == 3 * 2 * 20 * 3 * 7);
  ops::block_project_activation(s, z, z, x, w, Tensor(), Tensor(), r, Activation::kGelu);
  CHECK(s.counter().matmul_flops == 4 * 2 * 20 * 3 * 7);
  CHECK(s.counter().matmuls.empty());
}

// Kills: a check forgotten for one argument: each case breaks exactly one.
TEST_CASE("ops over blocks refuse each tensor that does not fit the others", "[ops][blocks][contract]") {
  Stream s(cpu_runtime());
  const auto make = [](Shape shape, DType dtype = DType::kF32) { return Tensor(nullptr, shape, dtype, Device::cpu()); };
  const BlockRouting r{make({20}, DType::kI32), make({20}, DType::kI32), make({13}, DType::kI32), 4, 2, 4};
  const Tensor x = make({10, 7}), w = make({12, 7}), z = make({20, 3}), row = make({7}), bias = make({12});
  const Tensor weights = make({10, 2}), bad = make({5}, DType::kI32), none;
  const auto refused = [&](const std::string& start, auto&& run) {
    const std::string error = error_of(run).what;
    INFO(start << " | " << error);
    CHECK(error.rfind(start, 0) == 0);
  };
  const auto project = [&](Tensor z_, Tensor x_, Tensor w_, Tensor bias_, const BlockRouting& r_) {
    return [=, &s] { ops::block_project(s, z_, x_, w_, bias_, r_); };
  };
  refused("block_project: z is i32", project(bad, x, w, none, r));
  refused("block_project: x is i32", project(z, bad, w, none, r));
  refused("block_project: w is f32 [7, 12]", project(z, x, make({7, 12}), none, r));
  refused("block_project: w has 10 cells; expected a multiple of 4 blocks", project(z, x, make({10, 7}), none, r));
  refused("block_project: bias is f32 [7]", project(z, x, w, row, r));
  BlockRouting broken = r;
  broken.order = bad;
  refused("block_project: routing.order is i32 [5]", project(z, x, w, none, broken));
  broken = r, broken.inverse = bad;
  refused("block_project: routing.inverse is i32 [5]", project(z, x, w, none, broken));
  broken = r, broken.chunk = 5;
  refused("block_project: routing.offsets is i32 [13] on cpu; expected i32 [9]", project(z, x, w, none, broken));
  broken = r, broken.per_token = 0;
  refused("block_project: the routing has 4 blocks, 0 a token", project(z, x, w, none, broken));
  const auto activated = [&](Tensor h_, Tensor z_, Tensor w_, Tensor bias_, Tensor gate_) {
    return [=, &s, &r] { ops::block_project_activation(s, h_, z_, x, w_, bias_, gate_, r, Activation::kGelu); };
  };
  refused("block_project_activation: h is f32 [10, 7]", activated(x, z, w, none, none));
  refused("block_project_activation: z is absent", activated(z, none, w, none, none));
  refused("block_project_activation: w is f32 [7, 12]", activated(z, z, make({7, 12}), none, none));
  refused("block_project_activation: bias is f32 [7]", activated(z, z, w, row, none));
  refused("block_project_activation: gate is f32 [10, 7]", activated(z, z, w, none, x));
  const auto combine = [&](Tensor y_, Tensor h_, Tensor weights_, Tensor w_, Tensor bias_) {
    return [=, &s, &r] { ops::block_combine(s, y_, h_, weights_, w_, bias_, r, Accumulate::kNo); };
  };
  refused("block_combine: y is i32", combine(bad, z, none, w, none));
  refused("block_combine: h is f32 [12, 7]", combine(x, w, none, w, none));
  refused("block_combine: weights is f32 [20, 3]", combine(x, z, z, w, none));
  refused("block_combine: w is f32 [12, 7]", combine(make({10, 6}), z, none, w, none));
  refused("block_combine: bias is f32 [12]", combine(x, z, none, w, bias));
  const auto gradient = [&](Tensor dw_, Tensor h_, Tensor weights_, Tensor x_) {
    return [=, &s, &r] { ops::block_weight_gradient(s, dw_, h_, weights_, x_, r); };
  };
  refused("block_weight_gradient: dw is bf16", gradient(make({12, 7}, DType::kBF16), z, none, x));
  refused("block_weight_gradient: h is f32 [10, 2]", gradient(w, weights, none, x));
  refused("block_weight_gradient: weights is f32 [20, 3]", gradient(w, z, z, x));
  refused("block_weight_gradient: x is i32", gradient(w, z, none, bad));
  refused("block_bias_gradient: dbias is f32 [7]", [&] { ops::block_bias_gradient(s, row, z, r); });
  refused("block_bias_gradient: dz has 21 rows", [&] { ops::block_bias_gradient(s, bias, make({21, 3}), r); });
  refused("weigh_backward: dh is f32 [12, 7]", [&] { ops::weigh_backward(s, w, weights, z, weights, none); });
  refused("weigh_backward: weights is f32 [10, 3]", [&] {
    ops::weigh_backward(s, z, weights, z, make({10, 3}), none);
  });
  refused("weigh_backward: inverse is i32 [5]", [&] { ops::weigh_backward(s, z, weights, z, weights, bad); });
  const Tensor cells = make({10, 12}), blocks = make({10, 2}, DType::kI32);
  refused("gather_cells: cells is f32 [10, 7]", [&] { ops::gather_cells(s, z, x, none, blocks); });
  refused("gather_cells: blocks is i32 [5]", [&] { ops::gather_cells(s, z, cells, none, bad); });
  refused("gather_cells: bias is f32 [10, 12]", [&] { ops::gather_cells(s, z, cells, cells, blocks); });
  refused("scatter_cells: cells is f32 [10, 7]", [&] { ops::scatter_cells(s, x, z, none, blocks); });
  refused("scatter_cells: weights is f32 [20, 3]", [&] { ops::scatter_cells(s, cells, z, z, blocks); });
  refused("permute_rows: order is i32 [5]", [&] { ops::permute_rows(s, z, z, bad); });
  refused("permute_rows: out is f32 [12, 7]", [&] { ops::permute_rows(s, w, z, make({20}, DType::kI32)); });
}
