#include "kernels/ops.h"
#include "kernels/ref/block_routing.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/complex_step.h"
#include "support/error_of.h"
#include "support/few_shapes.h"
#include "support/host_tensor.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

using namespace sffn;
using namespace sffn::test;

namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

struct Chosen {
  std::vector<double> blocks;
  double nans = 0;
};

Chosen choose(const HostTensor& scores, int64_t b, const HostTensor& bias = {}) {
  const int64_t N = scores.tensor().rows();
  HostTensor blocks(DType::kI32, {N, b}), nans(DType::kF64, {1}, {10});
  Stream stream(cpu_runtime());
  ops::top_b(stream, blocks, nans, scores, bias);
  return {blocks.values(), nans.values()[0] - 10};
}

std::vector<double> chosen_of(const std::vector<double>& row, int64_t b, DType dtype) {
  return choose(HostTensor(dtype, {1, static_cast<int64_t>(row.size())}, row), b).blocks;
}

// A few values only, so that rows are full of ties, signed zeros, infinities and NaN.
std::vector<double> awkward_values(size_t count, uint64_t stream) {
  const double values[] = {0.0, -0.0, 1, -1, 1e-42, -1e-42, 3e38, -3e38, kInf, -kInf, kNaN, -kNaN, 0.5, 0.5000001};
  std::vector<double> result(count);
  for (size_t i = 0; i < count; ++i) result[i] = values[random_bits({5, stream}, i) % std::size(values)];
  return result;
}

// scores + bias in float, as f32 is summed.
std::vector<double> sums_of(const HostTensor& scores, const HostTensor& bias) {
  std::vector<double> sums = scores.values();
  if (!bias.tensor().defined()) return sums;
  const std::vector<double> shift = bias.values();
  for (size_t i = 0; i < sums.size(); ++i) {
    sums[i] = static_cast<double>(static_cast<float>(sums[i]) + static_cast<float>(shift[i % shift.size()]));
  }
  return sums;
}

}  // namespace

// Kills: descending output, ties to the higher block, -0 below +0, infinities or NaN misplaced, a negative NaN last.
TEST_CASE("the order of scores is total: NaN, infinity, numbers, and of equals the lower block", "[ops][top_b]") {
  const DType dtype = GENERATE(DType::kF32, DType::kF64, DType::kC128);
  using Blocks = std::vector<double>;
  CHECK(chosen_of({1, 5, 3, 4}, 2, dtype) == Blocks{1, 3});
  CHECK(chosen_of({2, 2, 2, 2}, 2, dtype) == Blocks{0, 1});
  CHECK(chosen_of({1, 2, 3, 2, 2}, 3, dtype) == Blocks{1, 2, 3});
  CHECK(chosen_of({-1, -0.0, 0.0, 0.0}, 1, dtype) == Blocks{1});
  CHECK(chosen_of({-1, 0.0, -0.0}, 2, dtype) == Blocks{1, 2});
  CHECK(chosen_of({kInf, 1, kInf, -kInf}, 2, dtype) == Blocks{0, 2});
  CHECK(chosen_of({-kInf, -kInf, -3e38}, 1, dtype) == Blocks{2});
  CHECK(chosen_of({kInf, -kNaN, 7, kNaN}, 1, dtype) == Blocks{1});
  CHECK(chosen_of({kInf, kNaN, 7, -kNaN}, 2, dtype) == Blocks{1, 3});
  CHECK(chosen_of({kInf, kNaN, 7, -kNaN}, 3, dtype) == Blocks{0, 1, 3});
  CHECK(chosen_of({-1e-45, 1e-45, 0}, 1, dtype) == Blocks{1});
  CHECK(chosen_of({-4, -3, -2, -1}, 4, dtype) == Blocks{0, 1, 2, 3});
}

// Kills: a wrong bit of the threshold, too many or too few of equal scores, thinning that loses a key, a lost row.
TEST_CASE("the blocks chosen in f32 are those of a full sort", "[ops][top_b]") {
  const bool awkward = GENERATE(false, true);
  for (int64_t B : {1, 31, 33, 127, 200, 500, 1024, 1025, 5000}) {
    for (int64_t b : {int64_t{1}, int64_t{2}, B / 16, B / 2, B - 1, B}) {
      if (b < 1 || b > B) continue;
      for (int64_t N : all_or_few({0, 1, 7, 40}, {2})) {
        const auto n = static_cast<size_t>(N * B), stream = static_cast<size_t>(B);
        const HostTensor scores(DType::kF32, {N, B}, awkward ? awkward_values(n, stream) : random_values(n, stream));
        const Chosen fast = choose(scores, b), sorted = choose(scores.as(DType::kF64), b);
        INFO("B = " << B << ", b = " << b << ", N = " << N);
        REQUIRE(fast.blocks == sorted.blocks);
        REQUIRE(fast.nans == sorted.nans);
      }
    }
  }
}

// Kills: a path for long rows that loses the last of them, their bias, a tie or a NaN; rows that are read in packs
// where they do not begin with one.
TEST_CASE("long rows are chosen from as short ones are", "[ops][top_b]") {
  for (int64_t B : all_or_few({1500, 9000, 9001, 24'577, 40'000, 131'072}, {1500, 9001, 24'577})) {
    for (bool awkward : {false, true}) {
      const auto n = static_cast<size_t>(2 * B);
      const HostTensor scores(DType::kF32, {2, B}, awkward ? awkward_values(n, 3) : random_values(n, 3));
      const HostTensor bias(DType::kF32, {B}, awkward_values(static_cast<size_t>(B), 4));
      for (int64_t b : {int64_t{1}, int64_t{70}, B / 2, B}) {
        for (const HostTensor& shift : {HostTensor(), bias}) {
          const HostTensor sums(DType::kF32, {2, B}, sums_of(scores, shift));
          const Chosen fast = choose(scores, b, shift), sorted = choose(sums.as(DType::kF64), b);
          INFO("B = " << B << ", b = " << b << ", awkward = " << awkward);
          REQUIRE(fast.blocks == sorted.blocks);
          REQUIRE(fast.nans == sorted.nans);
        }
      }
    }
  }
}

// Kills: thinning by too many bits, where most keys share the first twelve.
TEST_CASE("scores that differ in their last bits alone are told apart", "[ops][top_b]") {
  const int64_t B = 4000;
  std::vector<double> row(B);
  for (int64_t i = 0; i < B; ++i) row[i] = -1 - 0x1p-23 * static_cast<double>(i * 37 % 1000);
  for (int64_t b : {1, 3, 4, 5, 2000, 3999}) {
    CHECK(chosen_of(row, b, DType::kF32) == chosen_of(row, b, DType::kF64));
  }
}

// Kills: a bias that is forgotten, or added to the scores of one row only.
TEST_CASE("a bias moves the choice and nothing else", "[ops][top_b]") {
  const DType dtype = GENERATE(DType::kF32, DType::kF64);
  const HostTensor scores(dtype, {2, 3}, {1, 2, 3, 3, 2, 1}), bias(dtype, {3}, {0, 10, 1.5});
  const auto before = scores.bytes();
  CHECK(choose(scores, 1, bias).blocks == std::vector<double>{1, 1});
  CHECK(choose(scores, 2, bias).blocks == std::vector<double>{1, 2, 0, 1});
  CHECK(scores.bytes() == before);
}

// Kills: counting chosen NaN instead of all, or per row; overwriting the count.
TEST_CASE("every score that is NaN is counted, with its bias", "[ops][top_b]") {
  const DType dtype = GENERATE(DType::kF32, DType::kF64, DType::kC128);
  CHECK(choose(HostTensor(dtype, {2, 4}, {kNaN, 1, -kNaN, kNaN, 0, kNaN, 2, 3}), 1).nans == 4);
  CHECK(choose(HostTensor(dtype, {1, 2}, {kInf, 1}), 1, HostTensor(dtype, {2}, {-kInf, 0})).nans == 1);
  HostTensor blocks(DType::kI32, {1, 1});
  Stream stream(cpu_runtime());
  ops::top_b(stream, blocks, Tensor(), HostTensor(dtype, {1, 2}, {0, kNaN}), Tensor());
  CHECK(blocks.values()[0] == 1);
}

// Kills: choosing by the modulus of complex scores, or by their imaginary parts.
TEST_CASE("complex scores are ranked by their real parts", "[ops][top_b]") {
  std::vector<Complex> scores = {{1, 9}, {2, -9}, {-8, 0}, {2, 5}};
  HostTensor blocks(DType::kI32, {1, 2});
  Stream stream(cpu_runtime());
  ops::top_b(stream, blocks, Tensor(), Tensor(scores.data(), {1, 4}, DType::kC128, Device::cpu()), Tensor());
  CHECK(blocks.values() == std::vector<double>{1, 3});
}

// Kills: scratch shared by threads.
TEST_CASE("a choice gives the same blocks for any number of threads", "[ops][top_b]") {
  const HostTensor scores(DType::kF32, {300, 1500}, awkward_values(450'000, 2));
  check_same_on_any_threads([&] {
    const Chosen c = choose(scores, 37);
    return std::pair(c.blocks, c.nans);
  });
}

// Kills: a check forgotten for one argument.
TEST_CASE("top_b refuses tensors that do not fit the scores", "[ops][top_b][contract]") {
  Stream s(cpu_runtime());
  const auto outline = [](Shape shape, DType dtype = DType::kF32) {
    return Tensor(nullptr, shape, dtype, Device::cpu());
  };
  const Tensor scores = outline({4, 6}), blocks = outline({4, 2}, DType::kI32), nans = outline({1}, DType::kF64);
  const auto message = [&](Tensor to, Tensor count, Tensor from, Tensor bias) {
    return error_of([&] { ops::top_b(s, to, count, from, bias); }).what;
  };
  CHECK(message(outline({4, 0}, DType::kI32), nans, scores, Tensor()) == "top_b: 0 of 6 blocks; expected 1 to 6");
  CHECK(message(outline({4, 7}, DType::kI32), nans, scores, Tensor()) == "top_b: 7 of 6 blocks; expected 1 to 6");
  CHECK(message(outline({3, 2}, DType::kI32), nans, scores, Tensor()).rfind("top_b: blocks ", 0) == 0);
  CHECK(message(outline({4, 2}), nans, scores, Tensor()).rfind("top_b: blocks ", 0) == 0);
  CHECK(message(blocks, outline({1}), scores, Tensor()).rfind("top_b: nans ", 0) == 0);
  CHECK(message(blocks, nans, outline({4, 6}, DType::kBF16), Tensor()).rfind("top_b: scores ", 0) == 0);
  CHECK(message(blocks, nans, scores, outline({4})).rfind("top_b: bias ", 0) == 0);
}
