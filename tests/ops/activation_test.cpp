#include "kernels/ref/activation.h"

#include "kernels/ops.h"
#include "support/activation_bound.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/complex_step.h"
#include "support/host_tensor.h"
#include "support/tolerances.h"

#include <cmath>
#include <iterator>
#include <numbers>
#include <utility>
#include <vector>

using namespace sffn;
using namespace sffn::test;

namespace {

constexpr Activation kAll[] = {Activation::kRelu, Activation::kGelu, Activation::kGeluErf, Activation::kSilu};

struct ActivationCase {
  Activation f;
  Shape shape;
  HostTensor z, gate, dh, h, dz, dgate;

  ActivationCase(Activation function, DType dtype, int64_t n, bool gated, double std = 2) : f(function), shape{n} {
    const auto draw = [&](uint64_t stream) { return random_values(static_cast<size_t>(n), stream, std); };
    z = HostTensor(dtype, shape, draw(1));
    dh = HostTensor(dtype, shape, draw(3));
    h = HostTensor(dtype, shape), dz = HostTensor(dtype, shape);
    if (gated) gate = HostTensor(dtype, shape, draw(2)), dgate = HostTensor(dtype, shape);
  }
  void run() {
    Stream stream(cpu_runtime());
    ops::activation_forward(stream, h, z, gate, f);
    ops::activation_backward(stream, dz, dgate, dh, z, gate, f);
  }
  ActivationCase reference() const {
    ActivationCase r = *this;
    for (HostTensor* t : {&r.z, &r.gate, &r.dh, &r.h, &r.dz, &r.dgate}) *t = t->as(DType::kF64);
    r.run();
    return r;
  }
};

void check_against_reference(const ActivationCase& low) {
  const ActivationCase ref = low.reference();
  const DType dtype = low.z.dtype();
  const bool gated = low.gate.tensor().defined();
  const auto z = ref.z.values(), dh = ref.dh.values(), h = ref.h.values(), dz = ref.dz.values();
  const auto argument = gated ? ref.gate.values() : z;
  const auto rounded = [&](double exact, double error) {
    return error + tolerances::elementwise(2, std::abs(exact), exact, dtype);
  };
  check_within(low.h.values(), h, [&](size_t i) {
    return rounded(h[i], activation_bound(argument[i], low.f).value * (gated ? std::abs(z[i]) : 1));
  });
  check_within(low.dz.values(), dz, [&](size_t i) {
    const ActivationBound b = activation_bound(argument[i], low.f);
    return rounded(dz[i], (gated ? b.value : b.slope) * std::abs(dh[i]));
  });
  if (!gated) return;
  const auto dgate = ref.dgate.values();
  check_within(low.dgate.values(), dgate, [&](size_t i) {
    return rounded(dgate[i], activation_bound(argument[i], low.f).slope * std::abs(dh[i] * z[i]));
  });
}

}  // namespace

// Kills: a wrong constant or sign in any derivative, the gate's and the input's gradients exchanged.
TEST_CASE("every reference activation's backward is the complex step of its forward", "[ops][activation]") {
  const Activation f = GENERATE(from_range(std::begin(kAll), std::end(kAll)));
  std::vector<double> z = random_values(40, 1, 2), gate = random_values(40, 2, 2);
  z[0] = -9, z[1] = 9, z[2] = 6.01 * std::numbers::sqrt2, z[3] = 5.99 * std::numbers::sqrt2, gate[4] = -8, gate[5] = 8;
  const auto dh = random_values(40, 3);
  std::vector<double> dz(40), dgate(40);
  ref::activation_backward<double>(dz.data(), nullptr, dh.data(), z.data(), nullptr, 40, f);
  const auto plain = [&](const std::vector<Complex>& x) {
    std::vector<Complex> h(40);
    ref::activation_forward<Complex>(h.data(), x.data(), nullptr, 40, f);
    return h;
  };
  check_close(dz, complex_step_gradient(z, dh, plain), 1e-12);

  ref::activation_backward(dz.data(), dgate.data(), dh.data(), z.data(), gate.data(), 40, f);
  const auto gated = [&](const std::vector<Complex>& x, const std::vector<Complex>& g) {
    std::vector<Complex> h(40);
    ref::activation_forward(h.data(), x.data(), g.data(), 40, f);
    return h;
  };
  const auto cz = to_complex(z), cg = to_complex(gate);
  check_close(dz, complex_step_gradient(z, dh, [&](const auto& x) { return gated(x, cg); }), 1e-12);
  check_close(dgate, complex_step_gradient(gate, dh, [&](const auto& x) { return gated(cz, x); }), 1e-12);
}

// Kills: the tanh form in place of the erf form, or the reverse (they differ by 5e-4).
TEST_CASE("activations have their published values", "[ops][activation]") {
  CHECK(ref::activation(1.0, Activation::kGelu) == Approx(0.8411919906).epsilon(1e-9));
  CHECK(ref::activation(1.0, Activation::kGeluErf) == Approx(0.8413447461).epsilon(1e-9));
  CHECK(ref::activation(1.0, Activation::kSilu) == Approx(0.7310585786).epsilon(1e-9));
  CHECK(ref::activation(-1.0, Activation::kRelu) == 0.0);
  CHECK(ref::activation_derivative(0.0, Activation::kRelu) == 0.0);
}

// Kills: cancellation in the tails, a lost remainder, overflow of e^x into NaN.
TEST_CASE("activations in f32 and bf16 agree with double, in the tails too", "[ops][activation]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  const bool gated = GENERATE(false, true);
  for (Activation f : kAll) {
    INFO(name_of(dtype) << " activation " << static_cast<int>(f) << (gated ? " gated" : ""));
    for (int64_t n : {0, 1, 31, 33, 127, 20000}) {
      for (double std : {2.0, 30.0}) {
        ActivationCase low(f, dtype, n, gated, std);
        low.run();
        check_against_reference(low);
      }
    }
  }
}

// Kills: reading dh after dz, its own memory, was written.
TEST_CASE("dz may be the memory of dh", "[ops][activation]") {
  const bool gated = GENERATE(false, true);
  const DType dtype = GENERATE(DType::kF32, DType::kBF16, DType::kF64);
  for (Activation f : kAll) {
    ActivationCase apart(f, dtype, 127, gated), shared = apart;
    apart.run();
    Stream stream(cpu_runtime());
    ops::activation_backward(stream, shared.dh, shared.dgate, shared.dh, shared.z, shared.gate, f);
    CHECK(shared.dh.bytes() == apart.dz.bytes());
    CHECK(shared.dgate.bytes() == apart.dgate.bytes());
  }
}

// Kills: a path for aligned memory taken where it is not, a tail of a vector written beyond the part.
TEST_CASE("activations of a part of a tensor are the part of those of the whole", "[ops][activation]") {
  const bool gated = GENERATE(false, true);
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  for (Activation f : kAll) {
    ActivationCase whole(f, dtype, 127, gated), parts = whole;
    whole.run();
    Stream stream(cpu_runtime());
    for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 1}, {1, 33}, {34, 93}}) {
      const auto part = [&, first = first, count = count](const HostTensor& t) {
        return t.tensor().defined() ? t.tensor().slice(first, count) : Tensor();
      };
      const Tensor z = part(parts.z), gate = part(parts.gate);
      ops::activation_forward(stream, part(parts.h), z, gate, f);
      ops::activation_backward(stream, part(parts.dz), part(parts.dgate), part(parts.dh), z, gate, f);
    }
    CHECK(parts.h.bytes() == whole.h.bytes());
    CHECK(parts.dz.bytes() == whole.dz.bytes());
    CHECK(parts.dgate.bytes() == whole.dgate.bytes());
  }
}

// Kills: results that depend on the place in a vector or on the thread.
TEST_CASE("activations give the same bits for any number of threads", "[ops][activation]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  check_same_on_any_threads([&] {
    ActivationCase c(Activation::kGelu, dtype, 100'003, true);
    c.run();
    std::vector<std::byte> bytes = c.h.bytes();
    for (const HostTensor* t : {&c.dz, &c.dgate}) bytes.insert(bytes.end(), t->bytes().begin(), t->bytes().end());
    return bytes;
  });
}
