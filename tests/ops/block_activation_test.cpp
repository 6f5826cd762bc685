// block_project_activation: the product of sorted rows with the cells of their blocks, and the activation of it.
#include "kernels/ops.h"
#include "kernels/ref/activation.h"
#include "support/activation_bound.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/device_cut.h"
#include "support/few_shapes.h"
#include "support/tolerances.h"

#include "block_case.h"

#include <cmath>
#include <iterator>
#include <string>
#include <vector>

using namespace sffn;
using namespace sffn::test;

namespace {

constexpr Activation kAll[] = {Activation::kRelu, Activation::kGelu, Activation::kGeluErf, Activation::kSilu};
constexpr double kUnwritten = 77;

struct Variant {
  DType dtype = DType::kF32;
  Activation f = Activation::kGelu;
  bool bias = true, gated = false;

  std::string str(const BlockSizes& s) const {
    return cat(s.str(), " ", name_of(dtype), ", activation ", static_cast<int>(f), bias ? ", bias" : "",
               gated ? ", gated" : "");
  }
};

struct ActivationCase {
  BlockSizes s;
  Variant v;
  HostRouting routing;
  HostTensor x, w, bias, gate, h, z;

  ActivationCase(const BlockSizes& sizes, const Variant& variant) : s(sizes), v(variant), routing(s, chosen_blocks(s)) {
    const auto draw = [](DType dtype, Shape shape, uint64_t stream, double std) {
      return HostTensor(dtype, shape, random_values(static_cast<size_t>(shape.numel()), stream, std));
    };
    x = draw(v.dtype, {s.N, s.D}, 1, 1);
    w = draw(v.dtype, {s.M(), s.D}, 2, 2 / std::sqrt(static_cast<double>(s.D)));
    if (v.bias) bias = draw(accumulate_type(v.dtype), {s.M()}, 3, 1);
    if (v.gated) gate = gates();
    const std::vector<double> unwritten(static_cast<size_t>(s.P() * s.G), kUnwritten);
    h = HostTensor(v.dtype, {s.P(), s.G}, unwritten), z = HostTensor(v.dtype, {s.P(), s.G}, unwritten);
  }
  int64_t used() const { return static_cast<int64_t>(routing.offsets.values().back()); }
  // Zero in unused rows, as block_project leaves them.
  HostTensor gates() const {
    std::vector<double> values = random_values(static_cast<size_t>(s.P() * s.G), 4, 2);
    std::fill(values.begin() + used() * s.G, values.end(), 0.0);
    return HostTensor(v.dtype, {s.P(), s.G}, values);
  }
  void run() {
    Stream stream(cpu_runtime());
    ops::block_project_activation(stream, h, z, x, w, bias, gate, routing.tensors(), v.f);
  }
  void run_in_place() {
    Stream stream(cpu_runtime());
    ops::block_project_activation(stream, h, h, x, w, bias, gate, routing.tensors(), v.f);
  }
  void run_one_after_the_other() {
    Stream stream(cpu_runtime());
    ops::block_project(stream, z, x, w, bias, routing.tensors());
    ops::activation_forward(stream, h, z, gate, v.f);
  }
  ActivationCase reference() const {
    ActivationCase r = *this;
    for (HostTensor* t : {&r.x, &r.w, &r.bias, &r.gate, &r.h, &r.z}) *t = t->as(DType::kF64);
    r.run();
    return r;
  }
  // z of every input's absolute value: sums of the magnitudes of their terms.
  std::vector<double> magnitudes() const {
    ActivationCase r = *this;
    for (HostTensor* t : {&r.x, &r.w, &r.bias}) {
      if (!t->tensor().defined()) continue;
      std::vector<double> values = t->values();
      for (double& value : values) value = std::abs(value);
      *t = HostTensor(DType::kF64, t->tensor().shape(), values);
    }
    for (HostTensor* t : {&r.gate, &r.h, &r.z}) *t = t->as(DType::kF64);
    r.run();
    return r.z.values();
  }
};

void check_against_reference(const ActivationCase& low) {
  constexpr double kSteepest = 1.13;  // no activation is steeper
  const DType out = low.v.dtype;
  const ActivationCase exact = low.reference();
  const auto z = exact.z.values(), h = exact.h.values(), gate = exact.gate.values(), size = low.magnitudes();
  const auto z_error = [&](size_t i) { return tolerances::sum_of_products(low.s.D + 1, size[i], z[i], out); };
  check_within(low.z.values(), z, z_error);
  check_within(low.h.values(), h, [&](size_t i) {
    const double rounding = tolerances::elementwise(2, std::abs(h[i]), h[i], out);
    if (!low.v.gated) return kSteepest * z_error(i) + activation_bound(z[i], low.v.f).value + rounding;
    const double f = std::abs(ref::activation(gate[i], low.v.f));
    return f * z_error(i) + activation_bound(gate[i], low.v.f).value * (std::abs(z[i]) + z_error(i)) + rounding;
  });
}

void check_bits(const BlockSizes& s, const Variant& v) {
  INFO(v.str(s));
  ActivationCase fused(s, v), in_place(s, v), parts(s, v);
  fused.run();
  in_place.run_in_place();
  parts.run_one_after_the_other();
  CHECK(fused.z.bytes() == parts.z.bytes());
  CHECK(fused.h.bytes() == parts.h.bytes());
  CHECK(in_place.h.bytes() == parts.h.bytes());
}

}  // namespace

// Kills: f of z before it is rounded, f(z) in place of f(gate), a gate of another row or cell, unused rows left as they
// were, z lost where it is kept.
TEST_CASE("a product of blocks with its activation has the bits of the product, then the activation",
          "[ops][block_activation]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16, DType::kF64, DType::kC128);
  const Activation f = GENERATE(from_range(std::begin(kAll), std::end(kAll)));
  for (const bool gated : {false, true}) {
    for (const auto& [G, D] : all_or_few<std::pair<int64_t, int64_t>>({{1, 31}, {1, 72}, {31, 33}, {33, 127}, {127, 1}},
                                                                      {{1, 31}, {1, 72}, {31, 33}})) {
      check_bits({33, D, 4, G, 2, 20, Choice::kSomeDropped}, {dtype, f, !gated, gated});
    }
    for (const int64_t N : all_or_few<int64_t>({0, 1, 31, 127}, {31}))
      check_bits({N, 33, 3, 31, 1, 64}, {dtype, f, gated, gated});
  }
}

// Kills: as above, at the edges of every width of tile, where 16 bytes leave at once and where they do not.
TEST_CASE("on tensor cores a product of blocks with its activation has the bits of the product, then the activation",
          "[ops][block_activation]") {
  const ScopedDeviceCut on({.warpgroups = GENERATE(false, true)});
  const Activation f = GENERATE(from_range(std::begin(kAll), std::end(kAll)));
  for (const int64_t G : all_or_few<int64_t>({16, 17, 32, 33, 64, 72, 128, 135, 256}, {16, 32, 64, 128, 135, 256})) {
    for (const bool gated : all_or_few({false, true}, {true})) {
      check_bits({20, 72, 3, G, 2, 20, Choice::kSomeDropped}, {DType::kBF16, f, !gated, gated});
    }
  }
  check_bits({150, 8, 4, 40, 1, 60, Choice::kOneBlock}, {DType::kBF16, f, true, true});
}

// Kills: an activation taken for another, a bias left out or added after f, a z that is rounded twice.
TEST_CASE("a product of blocks with its activation is the reference within the bound of its sums",
          "[ops][block_activation]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  for (const Activation f : kAll) {
    for (int flags = 0; flags < 4; ++flags) {
      const Variant v{dtype, f, (flags & 1) != 0, (flags & 2) != 0};
      for (const auto& [G, D] : all_or_few<std::pair<int64_t, int64_t>>(
               {{1, 33}, {1, 64}, {31, 127}, {33, 1}, {127, 31}, {64, 128}}, {{33, 1}})) {
        const BlockSizes s{31, D, 5, G, 2, 17, Choice::kSomeDropped};
        INFO(v.str(s));
        ActivationCase low(s, v);
        low.run();
        check_against_reference(low);
      }
    }
  }
}

// Kills: units of work that depend on threads, or on where segments of tokens are cut.
TEST_CASE("a product of blocks with its activation has the same bits for any number of threads",
          "[ops][block_activation][threads]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  const auto run = [&](const DeviceCut& cut) {
    const ScopedDeviceCut scoped(cut);
    ActivationCase c({300, 136, 6, 64, 3, 120, Choice::kSomeDropped}, {.dtype = dtype, .gated = true});
    c.run();
    std::vector<std::byte> bytes = c.h.bytes();
    bytes.insert(bytes.end(), c.z.bytes().begin(), c.z.bytes().end());
    return bytes;
  };
  CHECK(run({}) == run({.cached_bytes = 1}));
  check_same_on_any_threads([&] { return run({}); });
}
