#include "kernels/ops.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/complex_step.h"
#include "support/host_tensor.h"

#include <numeric>
#include <vector>

using namespace sffn;
using namespace sffn::test;

namespace {

double sum_of(const HostTensor& x) {
  HostTensor out(DType::kF64, {1}, {-1});
  Stream stream(cpu_runtime());
  ops::sum(stream, out, x);
  return out.values()[0];
}

std::vector<double> squares_of(const HostTensor& x, int64_t chunk) {
  HostTensor partial(DType::kF64, {(x.tensor().numel() + chunk - 1) / chunk});
  Stream stream(cpu_runtime());
  ops::sum_of_squares(stream, partial, x, chunk);
  return partial.values();
}

}  // namespace

// Kills: a lost remainder, a piece counted twice, pieces beyond the 256th.
TEST_CASE("sums of integers are exact at every size", "[ops][sum]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16, DType::kF64);
  for (int64_t n : {0, 1, 31, 33, 127, 4095, 4097, 70'000, 1'100'000}) {
    const auto values = integer_values(static_cast<size_t>(n), 1, 100);
    CHECK(sum_of(HostTensor(dtype, {n}, values)) == std::accumulate(values.begin(), values.end(), 0.0));
  }
}

// Kills: adding in float, which loses every 1 beside 2^24.
TEST_CASE("sums are taken in double", "[ops][sum]") {
  std::vector<double> values(1001, 1);
  values[0] = 0x1p40;
  CHECK(sum_of(HostTensor(DType::kF32, {1001}, values)) == 0x1p40 + 1000);
  values[0] = 0x1p20;
  CHECK(squares_of(HostTensor(DType::kF32, {1001}, values), 2000) == std::vector<double>{0x1p40 + 1000});
}

// Kills: losing the imaginary part, which carries the derivative.
TEST_CASE("a complex sum keeps both parts", "[ops][sum]") {
  std::vector<Complex> x = {{1, 2}, {3, -5}}, out(1);
  Stream stream(cpu_runtime());
  ops::sum(stream, Tensor(out.data(), {1}, DType::kC128, Device::cpu()),
           Tensor(x.data(), {2}, DType::kC128, Device::cpu()));
  CHECK(out[0] == Complex(4, -3));
}

// Kills: chunk borders off by one, a short last chunk read past its end.
TEST_CASE("squares are summed per chunk, exactly on integers", "[ops][sum]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16, DType::kF64);
  for (int64_t n : {0, 1, 31, 33, 127, 1000}) {
    for (int64_t chunk : {1, 32, 100, 2000}) {
      const auto values = integer_values(static_cast<size_t>(n), 2, 100);
      std::vector<double> expected(static_cast<size_t>((n + chunk - 1) / chunk));
      for (size_t i = 0; i < values.size(); ++i) expected[i / static_cast<size_t>(chunk)] += values[i] * values[i];
      CHECK(squares_of(HostTensor(dtype, {n}, values), chunk) == expected);
    }
  }
}

// Kills: partial sums per thread.
TEST_CASE("sums give the same bits for any number of threads", "[ops][sum]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  const HostTensor x(dtype, {100'003}, random_values(100'003, 3));
  check_same_on_any_threads([&] { return sum_of(x); });
  check_same_on_any_threads([&] { return squares_of(x, 16384); });
}
