#include "kernels/ops.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/host_tensor.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

using namespace sffn;
using namespace sffn::test;

namespace {

constexpr RandomKey kKey{5, 6};

HostTensor drawn(DType dtype, int64_t n, double std, bool truncated, int64_t first = 0) {
  HostTensor x(dtype, {n});
  Stream stream(cpu_runtime());
  ops::random_normal(stream, x, kKey, first, std, truncated);
  return x;
}

// Mean of x^power / std^power.
double moment(const std::vector<double>& x, double std, int power) {
  double total = 0;
  for (double value : x) total += std::pow(value / std, power);
  return total / static_cast<double>(x.size());
}

}  // namespace

// Kills: variance for standard deviation, one Box-Muller output used twice.
TEST_CASE("initial values have the moments of their normal distribution", "[ops][random]") {
  const auto x = drawn(DType::kF32, 400'000, 0.02, false).values();
  CHECK(std::abs(moment(x, 0.02, 1)) < 4 / std::sqrt(400'000.0));
  CHECK(std::abs(moment(x, 0.02, 2) - 1) < 4 * std::sqrt(2 / 400'000.0));
  CHECK(std::abs(moment(x, 0.02, 4) - 3) < 4 * std::sqrt(96 / 400'000.0));
  double neighbours = 0;
  for (size_t i = 1; i < x.size(); ++i) neighbours += x[i] * x[i - 1] / (0.02 * 0.02);
  CHECK(std::abs(neighbours) < 4 * std::sqrt(400'000.0));
}

// Kills: clipping at two standard deviations where values are drawn again.
TEST_CASE("truncated values stay within two standard deviations and do not pile up there", "[ops][random]") {
  const auto x = drawn(DType::kF32, 400'000, 0.02, true).values();
  const double limit = static_cast<float>(0.04);
  CHECK(*std::max_element(x.begin(), x.end()) <= limit);
  CHECK(*std::min_element(x.begin(), x.end()) >= -limit);
  CHECK(std::count(x.begin(), x.end(), limit) < 5);
  CHECK(moment(x, 0.02, 2) == Approx(0.7737413).margin(0.006));  // 1 - 4φ(2)/(2Φ(2) - 1)
}

// Kills: draws of different values in different precisions.
TEST_CASE("every dtype gets the f32 values, rounded", "[ops][random]") {
  const HostTensor f32 = drawn(DType::kF32, 1000, 0.02, true);
  CHECK(drawn(DType::kF64, 1000, 0.02, true).values() == f32.values());
  CHECK(drawn(DType::kC128, 1000, 0.02, true).values() == f32.values());
  CHECK(drawn(DType::kBF16, 1000, 0.02, true).values() == f32.as(DType::kBF16).values());
}

// Kills: a generator with state.
TEST_CASE("initial values are the same for any number of threads and any length", "[ops][random]") {
  check_same_on_any_threads([&] { return drawn(DType::kF32, 50'000, 1, true).bytes(); });
  const auto longer = drawn(DType::kF32, 127, 1, false).values(), shorter = drawn(DType::kF32, 33, 1, false).values();
  CHECK(std::equal(shorter.begin(), shorter.end(), longer.begin()));
  CHECK(drawn(DType::kF32, 0, 1, false).values().empty());
}

// Kills: a first element that is ignored, left out where a value is drawn again, or counted within a chunk.
TEST_CASE("elements drawn from one on are those of the whole tensor, bit for bit", "[ops][random]") {
  constexpr int64_t kWhole = 40'000;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF64, DType::kC128}) {
    for (const bool truncated : {false, true}) {
      const HostTensor whole = drawn(dtype, kWhole, 0.02, truncated);
      for (const auto& [first, n] :
           {std::pair<int64_t, int64_t>{0, 33}, {1, 31}, {127, 0}, {16'383, 127}, {999, 20'001}}) {
        INFO(n << " elements from " << first << (truncated ? ", truncated" : ""));
        const size_t size = size_of(dtype);
        CHECK(std::memcmp(drawn(dtype, n, 0.02, truncated, first).bytes().data(),
                          whole.bytes().data() + static_cast<size_t>(first) * size,
                          static_cast<size_t>(n) * size) == 0);
      }
    }
  }
  const double far = random_normal(kKey, uint64_t{1} << 40);
  CHECK(drawn(DType::kF32, 1, 1, false, int64_t{1} << 40).values()[0] == static_cast<double>(static_cast<float>(far)));
}
