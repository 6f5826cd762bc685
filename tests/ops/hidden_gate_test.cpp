// The ops that weigh every block of a hidden vector by the block's own output.
#include "core/stream.h"
#include "kernels/ops.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/complex_step.h"
#include "support/error_of.h"
#include "support/host_tensor.h"
#include "support/tolerances.h"

#include <array>
#include <cmath>
#include <utility>

using namespace sffn;
using namespace sffn::test;

namespace {

using Values = std::vector<double>;
constexpr DType kF32 = DType::kF32, kBF16 = DType::kBF16, kF64 = DType::kF64, kC128 = DType::kC128;

// N tokens, B blocks of G cells, width D. What is added to has its values before in the fields that begin with "old".
struct Problem {
  int64_t N, B, G, D;
  Values h, values, router, v, dv, weights, dscores, old_dh, old_dvalues, old_drouter;

  Problem(int64_t N_, int64_t B_, int64_t G_, int64_t D_) : N(N_), B(B_), G(G_), D(D_) {
    uint64_t stream = 1;
    const auto draw = [&](int64_t count) { return random_values(static_cast<size_t>(count), stream++); };
    h = draw(N * M()), values = draw(M() * D), router = draw(B * D), v = draw(M()), dv = draw(M());
    weights = draw(N * B), dscores = draw(N * B);
    old_dh = draw(N * M()), old_dvalues = draw(M() * D), old_drouter = draw(B * D);
  }
  int64_t M() const { return B * G; }
  std::array<Values*, 10> all() {
    return {&h, &values, &router, &v, &dv, &weights, &dscores, &old_dh, &old_dvalues, &old_drouter};
  }
};

struct Results {
  HostTensor v, dvalues, drouter, scores, dh, dv, scaled;
  std::array<const HostTensor*, 7> all() const { return {&v, &dvalues, &drouter, &scores, &dh, &dv, &scaled}; }
};

Results run(DType act, const Problem& p) {
  const DType acc = accumulate_type(act);
  const int64_t M = p.M();
  const HostTensor h(act, {p.N, M}, p.h), values(act, {M, p.D}, p.values), router(acc, {p.B, p.D}, p.router);
  const HostTensor v(acc, {M}, p.v), dscores(acc, {p.N, p.B}, p.dscores);
  Results r{.v = {acc, {M}},
            .dvalues = {acc, {M, p.D}, p.old_dvalues},
            .drouter = {acc, {p.B, p.D}, p.old_drouter},
            .scores = {acc, {p.N, p.B}},
            .dh = {act, {p.N, M}, p.old_dh},
            .dv = {acc, {M}, Values(static_cast<size_t>(M), std::nan(""))},
            .scaled = {act, {p.N, M}, p.h}};
  Stream stream(cpu_runtime());
  ops::value_projection_forward(stream, r.v, values, router);
  ops::value_projection_backward(stream, r.dvalues, r.drouter, HostTensor(acc, {M}, p.dv), values, router);
  ops::block_dot_forward(stream, r.scores, h, v);
  ops::block_dot_backward(stream, r.dh, r.dv, dscores, h, v);
  ops::scale_blocks(stream, r.scaled, r.scaled, HostTensor(acc, {p.N, p.B}, p.weights));
  return r;
}

Tensor complex_view(const std::vector<Complex>& x, Shape shape) {
  return Tensor(const_cast<Complex*>(x.data()), shape, kC128, Device::cpu());
}

// old + the complex step gradient of y = op(x) along dy
template <class Op>
Values expected_gradient(const Values& old, const Values& x, const Values& dy, Op&& op) {
  Values gradient = complex_step_gradient(x, dy, [&](const std::vector<Complex>& at) {
    std::vector<Complex> y(dy.size());
    op(y, at);
    return y;
  });
  for (size_t i = 0; i < old.size(); ++i) gradient[i] += old[i];
  return gradient;
}

// Every size at 1, 31, 33 and 127, tokens at 0, and blocks of whole packs.
std::vector<Problem> sizes() {
  return {{0, 2, 3, 5},    {1, 1, 1, 1},    {31, 3, 1, 33}, {33, 1, 127, 31},
          {127, 4, 33, 1}, {3, 31, 5, 127}, {2, 33, 31, 3}, {5, 3, 16, 24}};
}

}  // namespace

// Kills: the row of another block, the router taken per cell, a product with the token's neighbour.
TEST_CASE("the dot of a block's cells with the projected values is that of its output with the router",
          "[ops][hidden_gate]") {
  const Problem p(3, 2, 4, 5);
  const int64_t M = p.M();
  const HostTensor h(kF64, {p.N, M}, p.h), values(kF64, {M, p.D}, p.values), router(kF64, {p.B, p.D}, p.router);
  const HostTensor v(kF64, {M}), scores(kF64, {p.N, p.B});
  Stream stream(cpu_runtime());
  ops::value_projection_forward(stream, v, values, router);
  ops::block_dot_forward(stream, scores, h, v);
  Values expected(static_cast<size_t>(p.N * p.B));
  for (int64_t n = 0; n < p.N; ++n) {
    for (int64_t i = 0; i < p.B; ++i) {
      for (int64_t d = 0; d < p.D; ++d) {
        double output = 0;
        for (int64_t c = i * p.G; c < (i + 1) * p.G; ++c) output += p.h[n * M + c] * p.values[c * p.D + d];
        expected[n * p.B + i] += output * p.router[i * p.D + d];
      }
    }
  }
  check_close(scores.values(), expected, 1e-14);
}

// Kills: "=" for "+=" of dh, dvalues and drouter, "+=" for "=" of dv, a gradient of another block.
TEST_CASE("reference gradients of block weights are complex steps", "[ops][hidden_gate]") {
  for (Problem p : {Problem(3, 2, 4, 5), Problem(1, 1, 1, 1), Problem(4, 3, 1, 2)}) {
    const int64_t M = p.M();
    const Results r = run(kF64, p);
    Stream s(cpu_runtime());
    const std::vector<Complex> h = to_complex(p.h), v = to_complex(p.v), values = to_complex(p.values),
                               router = to_complex(p.router);
    const auto dot = [&](auto& y, auto& hidden, auto& factors) {
      ops::block_dot_forward(s, complex_view(y, {p.N, p.B}), complex_view(hidden, {p.N, M}),
                             complex_view(factors, {M}));
    };
    check_close(r.dh.values(), expected_gradient(p.old_dh, p.h, p.dscores, [&](auto& y, auto& x) { dot(y, x, v); }),
                1e-13);
    check_close(r.dv.values(), expected_gradient({}, p.v, p.dscores, [&](auto& y, auto& x) { dot(y, h, x); }), 1e-13);
    const auto project = [&](auto& y, auto& table, auto& directions) {
      ops::value_projection_forward(s, complex_view(y, {M}), complex_view(table, {M, p.D}),
                                    complex_view(directions, {p.B, p.D}));
    };
    check_close(r.dvalues.values(),
                expected_gradient(p.old_dvalues, p.values, p.dv, [&](auto& y, auto& x) { project(y, x, router); }),
                1e-13);
    check_close(r.drouter.values(),
                expected_gradient(p.old_drouter, p.router, p.dv, [&](auto& y, auto& x) { project(y, values, x); }),
                1e-13);
  }
}

// Kills: a tail left out, a strip or block boundary off by one, bf16 sums kept in bf16.
TEST_CASE("block weights in f32 and bf16 are the reference at every size", "[ops][hidden_gate]") {
  for (DType act : {kF32, kBF16}) {
    for (Problem p : sizes()) {
      INFO(name_of(act) << " N " << p.N << " B " << p.B << " G " << p.G << " D " << p.D);
      for (Values* x : p.all()) {
        *x = HostTensor(act, {static_cast<int64_t>(x->size())}, *x).values();
      }
      Problem sizes_only = p;
      for (Values* x : sizes_only.all()) {
        for (double& value : *x) value = std::abs(value);
      }
      const Results fast = run(act, p), exact = run(kF64, p), magnitude = run(kF64, sizes_only);
      for (size_t i = 0; i < fast.all().size(); ++i) {
        const Values expected = exact.all()[i]->values(), size = magnitude.all()[i]->values();
        check_within(fast.all()[i]->values(), expected, [&](size_t x) {
          return tolerances::sum_of_products(p.N + p.G + p.D, size[x], expected[x], fast.all()[i]->dtype());
        });
      }
    }
  }
}

// Kills: 1 - σ of what has rounded to 1, σ' of another element, a buffer read after it was written.
TEST_CASE("the gradient of the sigmoid is accurate on both sides, in place", "[ops][hidden_gate]") {
  for (size_t n : {0u, 1u, 31u, 33u, 127u, 20'001u}) {
    const Shape shape{static_cast<int64_t>(n), 1};
    const Values x = HostTensor(kF32, shape, random_values(n, 1, 20)).values();
    const Values dy = HostTensor(kF32, shape, random_values(n, 2)).values();
    for (DType dtype : {kF32, kF64}) {
      const HostTensor gradient(dtype, shape, dy);
      Stream stream(cpu_runtime());
      ops::sigmoid_backward(stream, gradient, gradient, HostTensor(dtype, shape, x));
      const double ulps = dtype == kF32 ? 8 * 2 * 0x1p-24 : 8 * 0x1p-52;
      Values expected(n);
      for (size_t i = 0; i < n; ++i) {
        const double e = std::exp(-std::abs(x[i]));
        expected[i] = dy[i] * e / ((1 + e) * (1 + e));
      }
      check_within(gradient.values(), expected, [&](size_t i) { return ulps * std::abs(expected[i]) + 0x1p-126; });
    }
  }
}

// Kills: "<=" for "<", a bound left out, counts that are overwritten, f(z) taken for z, NaN counted as small.
TEST_CASE("gate activations near zero are counted, each below its bound", "[ops][hidden_gate]") {
  const Values z = {0, 5e-4, -5e-4, 5e-3, -0.05, 0.05, 3, -3, -20, std::nan("")};
  Stream stream(cpu_runtime());
  for (DType dtype : {kF32, kBF16, kF64, kC128}) {
    const HostTensor counts(kF64, {4}, {100, 10, 20, 30});
    // silu: 0, 2.5e-4, -2.5e-4, 2.5e-3, -0.024, 0.026, 2.86, -0.142, -4e-8, NaN
    ops::count_near_zero(stream, counts, HostTensor(dtype, {2, 5}, z), Activation::kSilu);
    const Values found = counts.values();
    CHECK(found == Values{110, 14, 25, 37});
  }
  for (int64_t n : {0, 1, 31, 33, 127, 50'003}) {
    const Values x = random_values(static_cast<size_t>(n), 3, 0.1);
    Values fast[2];
    for (DType dtype : {kF32, kF64}) {
      const HostTensor counts(kF64, {4}, {0, 0, 0, 0});
      // the same inputs, so that none falls between the bound in f32 and in f64
      const Values rounded = HostTensor(kF32, {n}, x).values();
      ops::count_near_zero(stream, counts, HostTensor(dtype, {n}, rounded), Activation::kSilu);
      fast[dtype == kF64] = counts.values();
    }
    CHECK(fast[0] == fast[1]);
    CHECK(fast[0][0] == static_cast<double>(n));
  }
}

// Kills: a tensor that fits nothing let through.
TEST_CASE("block weights refuse tensors that do not fit", "[ops][hidden_gate][contract]") {
  Stream s(cpu_runtime());
  const HostTensor h(kF32, {4, 6}), v(kF32, {6}), scores(kF32, {4, 3}), five(kF32, {4, 5}), low(kBF16, {4, 3});
  const HostTensor values(kF32, {6, 7}), router(kF32, {3, 7}), other(kF32, {3, 6}), counts(kF64, {3});
  const auto message = [&](auto&& op) { return error_of(op).what; };
  CHECK(message([&] { ops::block_dot_forward(s, five, h, v); }) ==
        "block_dot_forward: h has 6 cells; expected a multiple of 5 blocks");
  CHECK(message([&] { ops::block_dot_forward(s, scores, h, scores); }) ==
        "block_dot_forward: v is f32 [4, 3] on cpu; expected f32 [6] on cpu");
  CHECK(message([&] { ops::block_dot_backward(s, scores, v, scores, h, v); }) ==
        "block_dot_backward: dh is f32 [4, 3] on cpu; expected f32 [4, 6] on cpu");
  CHECK(message([&] { ops::value_projection_forward(s, v, values, other); }) ==
        "value_projection_forward: router is f32 [3, 6] on cpu; expected f32 [3, 7] on cpu");
  CHECK(message([&] { ops::value_projection_backward(s, router, router, v, values, router); }) ==
        "value_projection_backward: dvalues is f32 [3, 7] on cpu; expected f32 [6, 7] on cpu");
  CHECK(message([&] { ops::scale_blocks(s, h, h, low); }) ==
        "scale_blocks: weights is bf16 [4, 3] on cpu; expected f32 [4, 3] on cpu");
  CHECK(message([&] { ops::sigmoid_backward(s, h, scores, h); }) ==
        "sigmoid_backward: dy is f32 [4, 3] on cpu; expected f32 [4, 6] on cpu");
  CHECK(message([&] { ops::count_near_zero(s, counts, h, Activation::kSilu); }) ==
        "count_near_zero: counts is f64 [3] on cpu; expected f64 [4] on cpu");
}

// Kills: sums cut by the number of threads.
TEST_CASE("block weights give the same bits for any number of threads", "[ops][hidden_gate]") {
  const Problem p(301, 7, 60, 200);
  for (DType act : {kF32, kBF16}) {
    check_same_on_any_threads([&] {
      const Results r = run(act, p);
      std::vector<std::vector<std::byte>> bytes;
      for (const HostTensor* tensor : r.all()) bytes.push_back(tensor->bytes());
      return bytes;
    });
  }
}
