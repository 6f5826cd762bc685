#include "kernels/ref/weight_gradient.h"

#include "kernels/ops.h"
#include "kernels/ref/matmul.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/complex_step.h"
#include "support/device_cut.h"
#include "support/host_tensor.h"
#include "support/tolerances.h"

#include <cmath>
#include <vector>

using namespace sffn;
using namespace sffn::test;

namespace {

struct Sizes {
  int64_t N, M, D;
};
constexpr Sizes kSizes[] = {{1, 1, 1},   {31, 33, 127}, {127, 1, 33}, {33, 127, 31},
                            {31, 33, 0}, {0, 33, 31},   {31, 0, 33},  {127, 128, 64}};

struct GradientCase {
  Sizes s;
  Transpose tw;
  HostTensor dw, dbias, dy, x;

  GradientCase(const Sizes& sizes, DType act, Transpose transpose, bool bias, bool integers) : s(sizes), tw(transpose) {
    const auto draw = [&](int64_t count, uint64_t stream) {
      const auto n = static_cast<size_t>(count);
      return integers ? integer_values(n, stream, 2) : random_values(n, stream);
    };
    const DType acc = accumulate_type(act);
    dy = HostTensor(act, {s.N, s.M}, draw(s.N * s.M, 1));
    x = HostTensor(act, {s.N, s.D}, draw(s.N * s.D, 2));
    const Shape shape = tw == Transpose::kYes ? Shape{s.M, s.D} : Shape{s.D, s.M};
    dw = HostTensor(acc, shape, draw(s.D * s.M, 3));
    if (bias) dbias = HostTensor(acc, {s.M}, draw(s.M, 4));
  }
  void run() {
    Stream stream(cpu_runtime());
    ops::weight_gradient(stream, dw, dbias, dy, x, tw);
  }
  GradientCase reference() const {
    GradientCase r = *this;
    for (HostTensor* t : {&r.dw, &r.dbias, &r.dy, &r.x}) *t = t->as(DType::kF64);
    r.run();
    return r;
  }
  // The same with |·| of everything.
  GradientCase magnitude() const {
    GradientCase r = *this;
    for (HostTensor* t : {&r.dw, &r.dbias, &r.dy, &r.x}) {
      if (!t->tensor().defined()) continue;
      std::vector<double> values = t->values();
      for (double& value : values) value = std::abs(value);
      *t = HostTensor(DType::kF64, t->tensor().shape(), values);
    }
    r.run();
    return r;
  }
};

template <class Run>
void for_each_case(bool integers, Run&& run) {
  for (const Sizes& s : kSizes) {
    for (const DType act : {DType::kF32, DType::kBF16}) {
      for (int flags = 0; flags < 4; ++flags) {
        GradientCase c(s, act, Transpose(flags & 1), (flags & 2) != 0, integers);
        INFO(s.N << "x" << s.M << "x" << s.D << " " << name_of(act) << " flags " << flags);
        run(c);
      }
    }
  }
}

}  // namespace

// Kills: dw stored the other way round, sums that overwrite, a bias gradient over the wrong columns.
TEST_CASE("the reference gradient of weights and bias is the complex step of the product", "[ops][weight_gradient]") {
  constexpr int64_t N = 5, M = 7, D = 6;
  const Transpose tw = GENERATE(Transpose::kNo, Transpose::kYes);
  const auto x = random_values(N * D, 1), w = random_values(D * M, 2), bias = random_values(M, 3);
  const auto dy = random_values(N * M, 4), before_dw = random_values(D * M, 5), before_dbias = random_values(M, 6);
  const auto forward = [&](const std::vector<Complex>& at_w, const std::vector<Complex>& at_bias) {
    std::vector<Complex> y(N * M);
    ref::matmul<Complex>(y.data(), to_complex(x).data(), Transpose::kNo, at_w.data(), tw, at_bias.data(),
                         Accumulate::kNo, N, M, D);
    return y;
  };
  std::vector<double> dw = before_dw, dbias = before_dbias, alone = before_dw;
  ref::weight_gradient(dw.data(), dbias.data(), dy.data(), x.data(), tw, N, M, D);
  ref::weight_gradient<double>(alone.data(), nullptr, dy.data(), x.data(), tw, N, M, D);
  CHECK(alone == dw);
  for (size_t i = 0; i < dw.size(); ++i) dw[i] -= before_dw[i];
  for (size_t i = 0; i < dbias.size(); ++i) dbias[i] -= before_dbias[i];
  const auto cw = to_complex(w), cb = to_complex(bias);
  check_close(dw, complex_step_gradient(w, dy, [&](const auto& at) { return forward(at, cb); }), 1e-12);
  check_close(dbias, complex_step_gradient(bias, dy, [&](const auto& at) { return forward(cw, at); }), 1e-12);
}

// Kills: operands or transposes exchanged, a gradient that is overwritten, a bias gradient left out.
TEST_CASE("gradients of weights and bias are the reference within the bound of their sums", "[ops][weight_gradient]") {
  const ScopedProducts products(GENERATE(false, true));
  for_each_case(false, [](GradientCase& low) {
    const GradientCase ref = low.reference(), size = low.magnitude();
    low.run();
    const auto check = [&](const HostTensor& actual, const HostTensor& expected, const HostTensor& magnitude) {
      const auto exact = expected.values(), sizes = magnitude.values();
      check_within(actual.values(), exact,
                   [&](size_t i) { return tolerances::sum_of_products(low.s.N + 1, sizes[i], exact[i], DType::kF32); });
    };
    check(low.dw, ref.dw, size.dw);
    check(low.dbias, ref.dbias, size.dbias);
  });
}

// Kills: sums of parts that are rounded on the way.
TEST_CASE("gradients of weights and bias are exact on integers", "[ops][weight_gradient]") {
  for_each_case(true, [](GradientCase& low) {
    const GradientCase ref = low.reference();
    low.run();
    CHECK(low.dw.values() == ref.dw.values());
    CHECK(low.dbias.values() == ref.dbias.values());
  });
}

// Kills: on the CPU, a fused form whose sums have another order than those of the ops it stands for.
TEST_CASE("on the CPU gradients of weights and bias have the bits of a product and a column sum",
          "[ops][weight_gradient][cpu]") {
  Stream stream(cpu_runtime());
  for_each_case(false, [&](GradientCase& fused) {
    GradientCase parts = fused;
    fused.run();
    const bool transposed = parts.tw == Transpose::kYes;
    ops::matmul(stream, parts.dw, transposed ? parts.dy : parts.x, Transpose::kYes, transposed ? parts.x : parts.dy,
                Transpose::kNo, Tensor(), Accumulate::kYes);
    if (parts.dbias.tensor().defined()) ops::column_sum(stream, parts.dbias, parts.dy);
    CHECK(fused.dw.bytes() == parts.dw.bytes());
    CHECK(fused.dbias.bytes() == parts.dbias.bytes());
  });
}

// Kills: sums over tokens that are cut by thread.
TEST_CASE("gradients of weights and bias have the same bits for any number of threads", "[ops][weight_gradient]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  check_same_on_any_threads([&] {
    GradientCase c({1100, 256, 128}, dtype, Transpose::kYes, true, false);
    c.run();
    std::vector<std::byte> bytes = c.dw.bytes();
    bytes.insert(bytes.end(), c.dbias.bytes().begin(), c.dbias.bytes().end());
    return bytes;
  });
}
