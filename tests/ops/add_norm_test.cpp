#include "kernels/ref/add_norm.h"

#include "kernels/ops.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/complex_step.h"
#include "support/few_shapes.h"
#include "support/host_tensor.h"
#include "support/tolerances.h"

#include <cmath>
#include <vector>

using namespace sffn;
using namespace sffn::test;

namespace {

constexpr double kEps = 1e-5;

size_t count(int64_t n) { return static_cast<size_t>(n); }

// One norm of either kind with everything that goes in and out; rms leaves mean, bias and dbias absent.
struct NormCase {
  int64_t N, D;
  DType dtype, acc;
  HostTensor sum, pending, weight, bias, sum_out, y, mean, rstd, dy, dh, dweight, dbias;

  NormCase(int64_t rows, int64_t width, DType type, bool rms, bool with_pending)
      : N(rows), D(width), dtype(type), acc(accumulate_type(type)) {
    const auto draw = [&](int64_t n, uint64_t stream) { return random_values(count(n), stream); };
    sum = HostTensor(dtype, {N, D}, draw(N * D, 1));
    if (with_pending) pending = HostTensor(dtype, {N, D}, draw(N * D, 2));
    weight = HostTensor(acc, {D}, draw(D, 3));
    dy = HostTensor(dtype, {N, D}, draw(N * D, 5));
    dh = HostTensor(dtype, {N, D}, draw(N * D, 6));
    dweight = HostTensor(acc, {D}, draw(D, 7));
    sum_out = HostTensor(dtype, {N, D}), y = HostTensor(dtype, {N, D}), rstd = HostTensor(acc, {N});
    if (rms) return;
    bias = HostTensor(acc, {D}, draw(D, 4));
    dbias = HostTensor(acc, {D}, draw(D, 8));
    mean = HostTensor(acc, {N});
  }
  void forward() {
    Stream stream(cpu_runtime());
    ops::add_norm_forward(stream, sum_out, y, mean, rstd, sum, pending, weight, bias, kEps);
  }
  void backward() {
    Stream stream(cpu_runtime());
    ops::add_norm_backward(stream, dh, dweight, dbias, dy, sum_out, mean, rstd, weight);
  }
  // The same inputs in f64, starting from this case's stored sum' and statistics.
  NormCase reference() const {
    NormCase r = *this;
    r.dtype = r.acc = DType::kF64;
    r.pending = HostTensor();
    r.sum = sum_out.as(DType::kF64);
    for (HostTensor* t : {&r.weight, &r.bias, &r.sum_out, &r.y, &r.mean, &r.rstd, &r.dy, &r.dh, &r.dweight, &r.dbias}) {
      *t = t->as(DType::kF64);
    }
    return r;
  }
};

void check_forward(const NormCase& low) {
  NormCase ref = low.reference();
  ref.forward();
  const auto s = ref.sum.values(), w = ref.weight.values(), r = ref.rstd.values(), y = ref.y.values();
  const auto b = low.bias.tensor().defined() ? ref.bias.values() : std::vector<double>(w.size());
  std::vector<double> mean_magnitude(r.size());
  for (size_t i = 0; i < s.size(); ++i) mean_magnitude[i / w.size()] += std::abs(s[i]) / static_cast<double>(low.D);
  check_within(low.y.values(), y, [&](size_t i) {
    const size_t n = i / w.size(), d = i % w.size();
    const double scale = std::abs(s[i]) + mean_magnitude[n];
    return tolerances::sum_of_products(low.D, scale * r[n] * std::abs(w[d]) + std::abs(b[d]), y[i], low.dtype);
  });
  check_within(low.rstd.values(), r, [&](size_t n) { return tolerances::sum_of_products(low.D, r[n], r[n], low.acc); });
}

void check_backward(const NormCase& before, const NormCase& low) {
  NormCase ref = before.reference();
  const auto dh0 = ref.dh.values(), dw0 = ref.dweight.values();
  ref.backward();
  const auto s = ref.sum.values(), w = ref.weight.values(), r = ref.rstd.values(), dy = ref.dy.values();
  const auto mu = low.mean.tensor().defined() ? ref.mean.values() : std::vector<double>(r.size());
  const auto dh = ref.dh.values(), dw = ref.dweight.values();
  std::vector<double> dw_scale(w.size()), dh_scale(dh.size());
  for (size_t n = 0; n < r.size(); ++n) {
    double mean_g = 0, mean_gx = 0;
    for (size_t d = 0; d < w.size(); ++d) {
      const size_t i = n * w.size() + d;
      const double xhat = std::abs((s[i] - mu[n]) * r[n]), g = std::abs(dy[i] * w[d]);
      dw_scale[d] += std::abs(dy[i]) * xhat;
      mean_g += g / static_cast<double>(w.size()), mean_gx += g * xhat / static_cast<double>(w.size());
    }
    for (size_t d = 0; d < w.size(); ++d) {
      const size_t i = n * w.size() + d;
      const double xhat = std::abs((s[i] - mu[n]) * r[n]);
      dh_scale[i] = std::abs(dh0[i]) + r[n] * (std::abs(dy[i] * w[d]) + mean_g + xhat * mean_gx);
    }
  }
  check_within(low.dh.values(), dh,
               [&](size_t i) { return tolerances::sum_of_products(low.D, dh_scale[i], dh[i], low.dtype); });
  check_within(low.dweight.values(), dw, [&](size_t d) {
    return tolerances::sum_of_products(low.N + 1, dw_scale[d] + std::abs(dw0[d]), dw[d], low.acc);
  });
  if (!low.dbias.tensor().defined()) return;
  const auto db = ref.dbias.values();
  check_within(low.dbias.values(), db, [&](size_t d) {
    double scale = std::abs(db[d]);
    for (size_t n = 0; n < r.size(); ++n) scale += std::abs(dy[n * w.size() + d]);
    return tolerances::sum_of_products(low.N + 1, scale, db[d], low.acc);
  });
}

// Loss Σ g0·sum' + Σ dy·y, so that dh starts as g0: the gradient of everything by complex step.
void check_reference_gradient(bool rms) {
  const int64_t N = 3, D = 7;
  const auto sum = random_values(21, 1), pending = random_values(21, 2), w = random_values(7, 3);
  const auto b = random_values(7, 4), g0 = random_values(21, 5), dy = random_values(21, 6);
  const auto run = [&](const std::vector<Complex>& s, const std::vector<Complex>& p, const std::vector<Complex>& weight,
                       const std::vector<Complex>& bias) {
    std::vector<Complex> out(42), mean(3), rstd(3);
    ref::add_norm_forward(out.data(), out.data() + 21, rms ? nullptr : mean.data(), rstd.data(), s.data(), p.data(),
                          weight.data(), rms ? nullptr : bias.data(), N, D, kEps);
    return out;
  };
  const auto cs = to_complex(sum), cp = to_complex(pending), cw = to_complex(w), cb = to_complex(b);
  std::vector<double> grad = g0;
  grad.insert(grad.end(), dy.begin(), dy.end());

  std::vector<double> value(42), mean(3), rstd(3), dh = g0, dw(7), db(7);
  double* mu = rms ? nullptr : mean.data();
  ref::add_norm_forward(value.data(), value.data() + 21, mu, rstd.data(), sum.data(), pending.data(), w.data(),
                        rms ? nullptr : b.data(), N, D, kEps);
  ref::add_norm_backward(dh.data(), dw.data(), rms ? nullptr : db.data(), dy.data(), value.data(), mu, rstd.data(),
                         w.data(), N, D);
  check_close(dh, complex_step_gradient(sum, grad, [&](const auto& x) { return run(x, cp, cw, cb); }), 1e-12);
  check_close(dh, complex_step_gradient(pending, grad, [&](const auto& x) { return run(cs, x, cw, cb); }), 1e-12);
  check_close(dw, complex_step_gradient(w, grad, [&](const auto& x) { return run(cs, cp, x, cb); }), 1e-12);
  if (!rms) check_close(db, complex_step_gradient(b, grad, [&](const auto& x) { return run(cs, cp, cw, x); }), 1e-12);
}

// sum' is the rounded sum, and everything else within its bounds.
void check_norm(int64_t N, int64_t D, DType dtype, bool rms, bool with_pending) {
  INFO(name_of(dtype) << " " << (rms ? "rms" : "layer") << " [" << N << ", " << D << "]");
  NormCase low(N, D, dtype, rms, with_pending);
  low.forward();
  std::vector<double> expected = low.sum.values();
  if (with_pending) {
    const std::vector<double> pending = low.pending.values();
    for (size_t i = 0; i < expected.size(); ++i) expected[i] += pending[i];
  }
  CHECK(low.sum_out.bytes() == HostTensor(dtype, {N, D}, expected).bytes());
  check_forward(low);
  const NormCase before = low;
  low.backward();
  check_backward(before, low);
}

std::vector<std::byte> all_bytes(const NormCase& c) {
  std::vector<std::byte> bytes;
  for (const HostTensor* t : {&c.sum_out, &c.y, &c.mean, &c.rstd, &c.dh, &c.dweight, &c.dbias}) {
    bytes.insert(bytes.end(), t->bytes().begin(), t->bytes().end());
  }
  return bytes;
}

}  // namespace

// Kills: dropping the mean's share of the gradient, the 1/D of the projection, or writing dh where it is added.
TEST_CASE("the reference norm's backward is the complex step of its forward", "[ops][add_norm]") {
  check_reference_gradient(false);
  check_reference_gradient(true);
}

// Kills: variance about 0, eps outside the root, bias left out, a lost remainder of a row.
TEST_CASE("norms in f32 and bf16 agree with double within derived bounds", "[ops][add_norm]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  const bool rms = GENERATE(false, true), with_pending = GENERATE(false, true);
  for (int64_t D : {1, 31, 33, 127, 256, 1000}) {
    for (int64_t N : all_or_few({0, 1, 5, 130}, {5})) check_norm(N, D, dtype, rms, with_pending);
  }
}

// Kills: what is kept of a long row read again where it is not kept, and the reverse; ranges of rows that overlap.
TEST_CASE("norms of long rows and of many rows agree with double within derived bounds", "[ops][add_norm]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  const bool rms = GENERATE(false, true), with_pending = GENERATE(false, true);
  for (int64_t D : all_or_few({1024, 1025, 2048, 2049, 4104, 8195, 8248}, {2049, 8248})) {
    check_norm(3, D, dtype, rms, with_pending);
  }
  if (few_shapes()) return;
  check_norm(520, 2056, dtype, rms, with_pending);
  check_norm(2061, 40, dtype, rms, with_pending);
}

// Kills: reading the unadded or unrounded sum after it was overwritten.
TEST_CASE("the sum of the residual pair may overwrite either of its parts", "[ops][add_norm]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16, DType::kF64);
  NormCase apart(5, 33, dtype, false, true), over_sum = apart, over_pending = apart;
  apart.forward();
  Stream stream(cpu_runtime());
  NormCase& a = over_sum;
  ops::add_norm_forward(stream, a.sum, a.y, a.mean, a.rstd, a.sum, a.pending, a.weight, a.bias, kEps);
  NormCase& b = over_pending;
  ops::add_norm_forward(stream, b.pending, b.y, b.mean, b.rstd, b.sum, b.pending, b.weight, b.bias, kEps);
  CHECK(over_sum.y.bytes() == apart.y.bytes());
  CHECK(over_sum.sum.bytes() == apart.sum_out.bytes());
  CHECK(over_pending.y.bytes() == apart.y.bytes());
  CHECK(over_pending.pending.bytes() == apart.sum_out.bytes());
}

// Kills: weight gradients summed per thread.
TEST_CASE("norms give the same bits for any number of threads", "[ops][add_norm]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  const bool rms = GENERATE(false, true);
  check_same_on_any_threads([&] {
    NormCase c(700, 127, dtype, rms, true);
    c.forward();
    c.backward();
    return all_bytes(c);
  });
}
