#include "kernels/ref/rope.h"

#include "kernels/ops.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/complex_step.h"
#include "support/host_tensor.h"
#include "support/tolerances.h"

#include <cmath>
#include <vector>

using namespace sffn;
using namespace sffn::test;

namespace {

AttentionShape shape_of(int64_t tokens, int64_t heads, int64_t kv_heads, int64_t head_dim) {
  return {1, tokens, heads, kv_heads, head_dim, 1};
}

std::vector<int32_t> far_positions(int64_t tokens) {
  std::vector<int32_t> positions(static_cast<size_t>(tokens));
  for (size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<int32_t>(i * 977 % 131072);
  return positions;
}

HostTensor drawn(DType dtype, const AttentionShape& s) {
  return HostTensor(dtype, {s.tokens(), s.qkv_width()},
                    random_values(static_cast<size_t>(s.tokens() * s.qkv_width()), 1));
}

}  // namespace

// Kills: turning the gradient forward, rotating the value heads.
TEST_CASE("the reference rotation's backward is the complex step of its forward", "[ops][rope]") {
  const AttentionShape s = shape_of(3, 2, 1, 6);
  const std::vector<int32_t> positions = {0, 5, 1000};
  const auto qkv = random_values(static_cast<size_t>(s.tokens() * s.qkv_width()), 1);
  std::vector<double> dqkv = random_values(qkv.size(), 2);
  const auto forward = [&](const std::vector<Complex>& x) {
    std::vector<Complex> y = x;
    ref::rope(y.data(), positions.data(), s, 10000, 1);
    return y;
  };
  const std::vector<double> expected = complex_step_gradient(qkv, dqkv, forward);
  ref::rope(dqkv.data(), positions.data(), s, 10000, -1);
  check_close(dqkv, expected, 1e-12);
}

// Kills: pairs (2i, 2i+1) in place of (i, i + d_h/2), an exponent of -i/d_h.
TEST_CASE("a unit vector turns by position times theta to the -2i/d_h", "[ops][rope]") {
  const AttentionShape s = shape_of(1, 1, 1, 4);
  HostTensor qkv(DType::kF32, {1, 12}, {1, 0, 0, 0, 0, 1, 0, 0, 5, 6, 7, 8});
  Stream stream(cpu_runtime());
  ops::rope_forward(stream, qkv, HostTensor::indices({3}), s, 100);
  const auto x = qkv.values();
  CHECK(x[0] == Approx(std::cos(3.0)));
  CHECK(x[2] == Approx(std::sin(3.0)));
  CHECK(x[5] == Approx(std::cos(0.3)));
  CHECK(x[7] == Approx(std::sin(0.3)));
  CHECK(std::vector<double>(x.begin() + 8, x.end()) == std::vector<double>{5, 6, 7, 8});
}

// Kills: angles reduced in float (wrong by radians at position 100,000), a head or a remainder left out.
TEST_CASE("rotations in f32 and bf16 agree with double at far positions", "[ops][rope]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  const double theta = GENERATE(10000.0, 500000.0);
  for (int64_t head_dim : {2, 62, 66, 128}) {
    for (int64_t tokens : {0, 1, 33, 127}) {
      const AttentionShape s = shape_of(tokens, 3, 1, head_dim);
      const HostTensor positions = HostTensor::indices(far_positions(tokens)), low = drawn(dtype, s);
      const HostTensor ref = low.as(DType::kF64);
      Stream stream(cpu_runtime());
      for (bool forward : {true, false}) {
        const HostTensor x = low, exact = ref;
        const auto run = [&](const HostTensor& t) {
          if (forward) {
            ops::rope_forward(stream, t, positions, s, theta);
          } else {
            ops::rope_backward(stream, t, positions, s, theta);
          }
        };
        run(x);
        run(exact);
        const auto expected = exact.values();
        check_within(x.values(), expected, [&](size_t i) { return tolerances::elementwise(8, 5, expected[i], dtype); });
      }
    }
  }
}

// Kills: tables shared between threads.
TEST_CASE("rotations give the same bits for any number of threads", "[ops][rope]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  const AttentionShape s = shape_of(500, 4, 2, 64);
  check_same_on_any_threads([&] {
    const HostTensor qkv = drawn(dtype, s);
    Stream stream(cpu_runtime());
    ops::rope_forward(stream, qkv, HostTensor::indices(far_positions(500)), s, 10000);
    return qkv.bytes();
  });
}
