#include "kernels/ref/matmul_activation.h"

#include "kernels/ops.h"
#include "kernels/ref/matmul.h"
#include "support/activation_bound.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/complex_step.h"
#include "support/device_cut.h"
#include "support/host_tensor.h"
#include "support/tolerances.h"

#include <cmath>
#include <iterator>
#include <string>
#include <vector>

using namespace sffn;
using namespace sffn::test;

namespace {

constexpr Activation kAll[] = {Activation::kRelu, Activation::kGelu, Activation::kGeluErf, Activation::kSilu};

struct Sizes {
  int64_t N, M, D;
};
constexpr Sizes kSizes[] = {{1, 1, 1},  {31, 33, 127}, {33, 127, 1}, {127, 31, 33},
                            {1, 31, 0}, {0, 33, 31},   {31, 0, 33},  {127, 128, 64}};

struct Variant {
  DType act = DType::kF32, out = DType::kF32;
  Activation f = Activation::kGelu;
  bool bias = true, gated = false, keeps_z = true;

  std::string str(const Sizes& s) const {
    return cat(s.N, "x", s.M, "x", s.D, " ", name_of(act), " to ", name_of(out), ", activation ", static_cast<int>(f),
               bias ? ", bias" : "", gated ? ", gated" : "", keeps_z ? ", z" : "");
  }
};

// Every activation with and without bias, gate and z, in f32, bf16 and from bf16 to f32.
template <class Run>
void for_each_variant(Run&& run) {
  for (const auto& [act, out] : {std::pair{DType::kF32, DType::kF32}, std::pair{DType::kBF16, DType::kBF16},
                                 std::pair{DType::kBF16, DType::kF32}}) {
    for (const Activation f : kAll) {
      for (int flags = 0; flags < 8; ++flags) run(Variant{act, out, f, (flags & 1) != 0, (flags & 2) != 0, flags >= 4});
    }
  }
}

std::vector<double> absolute(std::vector<double> values) {
  for (double& value : values) value = std::abs(value);
  return values;
}

// Σ_d |a_nd·b_md| (+ |bias_m|)
std::vector<double> magnitudes(const Sizes& s, const HostTensor& a, const HostTensor& b, const HostTensor& bias) {
  const auto x = absolute(a.values()), w = absolute(b.values());
  const auto c = bias.tensor().defined() ? absolute(bias.values()) : std::vector<double>(static_cast<size_t>(s.M));
  std::vector<double> sums(static_cast<size_t>(s.N * s.M));
  ref::matmul(sums.data(), x.data(), Transpose::kNo, w.data(), Transpose::kYes, c.data(), Accumulate::kNo, s.N, s.M,
              s.D);
  return sums;
}

using Draw = std::vector<double> (*)(int64_t count, uint64_t stream, double std);
std::vector<double> normal(int64_t count, uint64_t stream, double std) {
  return random_values(static_cast<size_t>(count), stream, std);
}
std::vector<double> minus_one_to_one(int64_t count, uint64_t stream, double) {
  return integer_values(static_cast<size_t>(count), stream, 1);
}

struct Forward {
  Sizes s;
  Variant v;
  HostTensor x, w, bias, gate, h, z;

  Forward(const Sizes& sizes, const Variant& variant, Draw draw) : s(sizes), v(variant) {
    const double row_std = 1 / std::sqrt(static_cast<double>(std::max<int64_t>(s.D, 1)));
    x = HostTensor(v.act, {s.N, s.D}, draw(s.N * s.D, 1, 1));
    w = HostTensor(v.act, {s.M, s.D}, draw(s.M * s.D, 2, 2 * row_std));
    if (v.bias) bias = HostTensor(accumulate_type(v.act), {s.M}, draw(s.M, 3, 1));
    if (v.gated) gate = HostTensor(v.out, {s.N, s.M}, draw(s.N * s.M, 4, 2));
    h = HostTensor(v.out, {s.N, s.M}, normal(s.N * s.M, 5, 1));
    if (v.keeps_z) z = HostTensor(v.out, {s.N, s.M}, normal(s.N * s.M, 6, 1));
  }
  void run() {
    Stream stream(cpu_runtime());
    ops::matmul_activation_forward(stream, h, z, x, w, bias, gate, v.f);
  }
  Forward reference() const {
    Forward r = *this;
    r.z = HostTensor(DType::kF64, {s.N, s.M});
    for (HostTensor* t : {&r.x, &r.w, &r.bias, &r.gate, &r.h}) *t = t->as(DType::kF64);
    r.run();
    return r;
  }
};

// No activation is steeper.
constexpr double kSteepest = 1.13;

void check_against_reference(const Forward& low) {
  const Forward ref = low.reference();
  const DType out = low.v.out;
  const auto z = ref.z.values(), h = ref.h.values(), size = magnitudes(low.s, low.x, low.w, low.bias);
  const auto bias = low.bias.values(), gate = low.gate.values();
  const auto z_error = [&](size_t i) {
    // A library may round bias and product to bf16 before it adds them.
    const double added = low.v.bias ? bias[i % static_cast<size_t>(low.s.M)] : 0;
    const double parts = low.v.bias ? std::abs(added) + std::abs(z[i] - added) : 0;
    return tolerances::sum_of_products(low.s.D + 1, size[i], z[i], out) +
           (out == DType::kBF16 ? tolerances::unit_roundoff(out) * parts : 0);
  };
  if (low.v.keeps_z) check_within(low.z.values(), z, z_error);
  check_within(low.h.values(), h, [&](size_t i) {
    const double rounding = tolerances::elementwise(2, std::abs(h[i]), h[i], out);
    if (!low.v.gated) return kSteepest * z_error(i) + activation_bound(z[i], low.v.f).value + rounding;
    const double f = std::abs(ref::activation(gate[i], low.v.f));
    return f * z_error(i) + activation_bound(gate[i], low.v.f).value * (std::abs(z[i]) + z_error(i)) + rounding;
  });
}

struct Backward {
  Sizes s;
  Variant v;
  HostTensor dy, values, z, gate, dz, dgate;

  Backward(const Sizes& sizes, const Variant& variant, Draw draw) : s(sizes), v(variant) {
    dy = HostTensor(v.act, {s.N, s.D}, draw(s.N * s.D, 1, 1));
    values = HostTensor(v.act, {s.M, s.D}, draw(s.M * s.D, 2, 1));
    z = HostTensor(v.out, {s.N, s.M}, draw(s.N * s.M, 3, 2));
    dz = HostTensor(v.out, {s.N, s.M}, normal(s.N * s.M, 4, 1));
    if (!v.gated) return;
    gate = HostTensor(v.out, {s.N, s.M}, draw(s.N * s.M, 5, 2));
    dgate = HostTensor(v.out, {s.N, s.M}, normal(s.N * s.M, 6, 1));
  }
  void run() {
    Stream stream(cpu_runtime());
    ops::matmul_activation_backward(stream, dz, dgate, dy, values, z, gate, v.f);
  }
  Backward reference() const {
    Backward r = *this;
    for (HostTensor* t : {&r.dy, &r.values, &r.z, &r.gate, &r.dz, &r.dgate}) *t = t->as(DType::kF64);
    r.run();
    return r;
  }
};

// dz = dh·slope with slope = f'(z) or f(gate), and dgate = dh·z·f'(gate). A fused epilogue may take the tanh of gelu
// from the hardware, which is off by 2^-11.
void check_against_reference(const Backward& low) {
  const Backward ref = low.reference();
  const DType out = low.v.out;
  const auto z = ref.z.values(), gate = ref.gate.values(), dz = ref.dz.values(), dgate = ref.dgate.values();
  const auto size = magnitudes(low.s, low.dy, low.values, HostTensor());
  std::vector<double> dh(dz.size());
  const auto dy = ref.dy.values(), v = ref.values.values();
  ref::matmul<double>(dh.data(), dy.data(), Transpose::kNo, v.data(), Transpose::kYes, nullptr, Accumulate::kNo,
                      low.s.N, low.s.M, low.s.D);
  const bool coarse = out == DType::kBF16 && low.v.f == Activation::kGelu && !low.v.gated;
  const auto within = [&](size_t i, double exact, double slope, double slope_error) {
    const double dh_error = tolerances::sum_of_products(low.s.D, size[i], dh[i], out);
    return std::abs(slope) * dh_error + (slope_error + (coarse ? 0x1p-10 : 0)) * (std::abs(dh[i]) + dh_error) +
           tolerances::elementwise(3, std::abs(exact), exact, out);
  };
  check_within(low.dz.values(), dz, [&](size_t i) {
    if (!low.v.gated) {
      return within(i, dz[i], ref::activation_derivative(z[i], low.v.f), activation_bound(z[i], low.v.f).slope);
    }
    return within(i, dz[i], ref::activation(gate[i], low.v.f), activation_bound(gate[i], low.v.f).value);
  });
  if (!low.v.gated) return;
  check_within(low.dgate.values(), dgate, [&](size_t i) {
    return within(i, dgate[i], z[i] * ref::activation_derivative(gate[i], low.v.f),
                  std::abs(z[i]) * activation_bound(gate[i], low.v.f).slope);
  });
}

}  // namespace

// Kills: v taken transposed, the gate's and the input's gradients exchanged, f in place of f'.
TEST_CASE("the reference way back through a product and an activation is the complex step of the way there",
          "[ops][matmul_activation]") {
  constexpr int64_t N = 5, M = 7, D = 6;
  const Activation f = GENERATE(from_range(std::begin(kAll), std::end(kAll)));
  const auto z = random_values(N * M, 1), gate = random_values(N * M, 2), dy = random_values(N * D, 3);
  const auto v = random_values(M * D, 4);
  const auto forward = [&](const std::vector<Complex>& cz, const std::vector<Complex>& cg) {  // y = h·v
    std::vector<Complex> h(N * M), y(N * D);
    ref::activation_forward<Complex>(h.data(), cz.data(), cg.empty() ? nullptr : cg.data(), N * M, f);
    ref::matmul<Complex>(y.data(), h.data(), Transpose::kNo, to_complex(v).data(), Transpose::kNo, nullptr,
                         Accumulate::kNo, N, D, M);
    return y;
  };
  std::vector<double> dz(N * M), dgate(N * M);
  ref::matmul_activation_backward<double>(dz.data(), nullptr, dy.data(), v.data(), z.data(), nullptr, N, M, D, f);
  check_close(dz, complex_step_gradient(z, dy, [&](const auto& at) { return forward(at, {}); }), 1e-12);

  ref::matmul_activation_backward(dz.data(), dgate.data(), dy.data(), v.data(), z.data(), gate.data(), N, M, D, f);
  const auto cz = to_complex(z), cg = to_complex(gate);
  check_close(dz, complex_step_gradient(z, dy, [&](const auto& at) { return forward(at, cg); }), 1e-12);
  check_close(dgate, complex_step_gradient(gate, dy, [&](const auto& at) { return forward(cz, at); }), 1e-12);
}

// Kills: w taken as stored, a bias left out or added twice, h of another z than the one that is kept.
TEST_CASE("the reference product and activation are the product, then the activation", "[ops][matmul_activation]") {
  constexpr int64_t N = 5, M = 7, D = 6;
  const Activation f = GENERATE(from_range(std::begin(kAll), std::end(kAll)));
  const bool gated = GENERATE(false, true), has_bias = GENERATE(false, true);
  const auto x = random_values(N * D, 1), w = random_values(M * D, 2), b = random_values(M, 3);
  const auto g = random_values(N * M, 4);
  const double *gate = gated ? g.data() : nullptr, *bias = has_bias ? b.data() : nullptr;
  std::vector<double> h(N * M), alone(N * M), z(N * M), expected_h(N * M), expected_z(N * M);
  ref::matmul_activation_forward(h.data(), z.data(), x.data(), w.data(), bias, gate, N, M, D, f);
  ref::matmul_activation_forward<double>(alone.data(), nullptr, x.data(), w.data(), bias, gate, N, M, D, f);
  ref::matmul(expected_z.data(), x.data(), Transpose::kNo, w.data(), Transpose::kYes, bias, Accumulate::kNo, N, M, D);
  ref::activation_forward(expected_h.data(), expected_z.data(), gate, N * M, f);
  check_close(z, expected_z, 1e-14);
  check_close(h, expected_h, 1e-14);
  CHECK(alone == h);
}

// Kills: any of the parts left out or out of order, a z that is rounded twice, h unwritten where z is absent.
TEST_CASE("a product with its activation is the reference within the bound of its sums", "[ops][matmul_activation]") {
  const ScopedProducts products(GENERATE(false, true));
  for_each_variant([](const Variant& v) {
    for (const Sizes& s : kSizes) {
      INFO(v.str(s));
      Forward low(s, v, normal);
      low.run();
      check_against_reference(low);
    }
  });
}

// Kills: v taken transposed, dz or dgate of a dh that the other has overwritten.
TEST_CASE("the way back through a product and its activation is the reference within the bound of its sums",
          "[ops][matmul_activation]") {
  const ScopedProducts products(GENERATE(false, true));
  for_each_variant([](const Variant& v) {
    if (v.bias || !v.keeps_z) return;
    for (const Sizes& s : kSizes) {
      INFO(v.str(s));
      Backward low(s, v, normal);
      low.run();
      check_against_reference(low);
    }
  });
}

// Kills: sums or products that lose a term or a bit where none needs to be lost.
TEST_CASE("products of integers with relu are exact, there and back", "[ops][matmul_activation]") {
  for_each_variant([](Variant v) {
    if (v.f != Activation::kRelu) return;
    for (const Sizes& s : kSizes) {
      INFO(v.str(s));
      Forward forward(s, v, minus_one_to_one);
      forward.run();
      const Forward exact = forward.reference();
      CHECK(forward.h.values() == exact.h.as(v.out).values());
      if (v.keeps_z) CHECK(forward.z.values() == exact.z.as(v.out).values());
      Backward backward(s, v, minus_one_to_one);
      backward.run();
      const Backward back = backward.reference();
      CHECK(backward.dz.values() == back.dz.as(v.out).values());
      if (v.gated) CHECK(backward.dgate.values() == back.dgate.as(v.out).values());
    }
  });
}

// Kills: on the CPU, a fused form that rounds elsewhere than the ops it stands for.
TEST_CASE("on the CPU a product with its activation has the bits of the product, then the activation",
          "[ops][matmul_activation][cpu]") {
  Stream stream(cpu_runtime());
  for_each_variant([&](const Variant& v) {
    const Sizes s{33, 127, 65};
    INFO(v.str(s));
    Forward fused(s, v, normal);
    fused.run();
    Forward parts(s, v, normal);
    const HostTensor z(v.out, {s.N, s.M});
    ops::matmul(stream, z, parts.x, Transpose::kNo, parts.w, Transpose::kYes, parts.bias, Accumulate::kNo);
    ops::activation_forward(stream, parts.h, z, parts.gate, v.f);
    CHECK(fused.h.bytes() == parts.h.bytes());
    if (v.keeps_z) CHECK(fused.z.bytes() == z.bytes());

    Backward back(s, v, normal), back_parts(s, v, normal);
    back.run();
    ops::matmul(stream, back_parts.dz, back_parts.dy, Transpose::kNo, back_parts.values, Transpose::kYes, Tensor(),
                Accumulate::kNo);
    ops::activation_backward(stream, back_parts.dz, back_parts.dgate, back_parts.dz, back_parts.z, back_parts.gate,
                             v.f);
    CHECK(back.dz.bytes() == back_parts.dz.bytes());
    CHECK(back.dgate.bytes() == back_parts.dgate.bytes());
  });
}

// Kills: a cut of the work that depends on the number of threads.
TEST_CASE("a product with its activation has the same bits for any number of threads", "[ops][matmul_activation]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  check_same_on_any_threads([&] {
    Forward forward({300, 256, 128}, {.act = dtype, .out = dtype}, normal);
    forward.run();
    Backward backward({300, 256, 128}, {.act = dtype, .out = dtype}, normal);
    backward.run();
    std::vector<std::byte> bytes = forward.h.bytes();
    for (const HostTensor* t : {&forward.z, &backward.dz}) {
      bytes.insert(bytes.end(), t->bytes().begin(), t->bytes().end());
    }
    return bytes;
  });
}
