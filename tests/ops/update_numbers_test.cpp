#include "kernels/ops.h"
#include "support/catch.h"
#include "support/complex_step.h"
#include "support/host_tensor.h"

#include <cmath>
#include <limits>
#include <vector>

using namespace sffn;
using namespace sffn::test;

namespace {

// The node of `leaves` leaves from `first` on: a left child of the largest power of two below, and the rest.
double node(const std::vector<double>& x, size_t first, size_t leaves) {
  if (leaves == 0) return 0;
  if (leaves == 1) return x[first];
  size_t left = 1;
  while (2 * left < leaves) left *= 2;
  return node(x, first, left) + node(x, first + left, leaves - left);
}

std::vector<double> numbers_from(const std::vector<double>& sums, double squares, double clip) {
  Stream stream(cpu_runtime());
  std::vector<double> before(update::kCount, -7);
  HostTensor numbers(DType::kF64, {update::kCount}, before);
  ops::update_numbers(stream, numbers, HostTensor(DType::kF64, {static_cast<int64_t>(sums.size())}, sums),
                      HostTensor(DType::kF64, {1}, {squares}), 16, 4, clip);
  return numbers.values();
}

}  // namespace

// Kills: sums one after another, a last leaf without sibling that is dropped or added twice, columns mixed up.
TEST_CASE("tree sums are those of the tree, to the bit, for any number of leaves", "[ops][tree_sum]") {
  for (const int64_t leaves : {0, 1, 2, 3, 5, 8, 31, 33, 127, 600}) {
    constexpr int64_t kColumns = 3;
    const std::vector<double> x = random_values(static_cast<size_t>(leaves * kColumns), 5);
    HostTensor out(DType::kF64, {kColumns}, {9, 9, 9});
    Stream stream(cpu_runtime());
    ops::tree_sum(stream, out, HostTensor(DType::kF64, {leaves, kColumns}, x));
    for (size_t c = 0; c < kColumns; ++c) {
      std::vector<double> column;
      for (size_t leaf = 0; leaf < static_cast<size_t>(leaves); ++leaf) column.push_back(x[leaf * kColumns + c]);
      INFO(leaves << " leaves, column " << c);
      CHECK(out.values()[c] == node(column, 0, column.size()));
    }
  }
}

// Kills: extra losses summed and not averaged, a norm without its root, a clip that scales up, learning rate or step
// lost.
TEST_CASE("the numbers of an update are those of its sums", "[ops][update_numbers]") {
  const std::vector<double> n = numbers_from({32, 1, 3}, 25, 2);
  CHECK(n[update::kLearningRate] == -7);
  CHECK(n[update::kStep] == -7);
  CHECK(n[update::kLoss] == 32.0 / 16 + 1.0 / 4 + 3.0 / 4);
  CHECK(n[update::kNorm] == 5);
  CHECK(n[update::kApplied] == 1);
  CHECK(n[update::kGradientScale] == 2.0 / 5);
  CHECK(numbers_from({32}, 25, 5)[update::kGradientScale] == 1);
  CHECK(numbers_from({32}, 25, 0)[update::kGradientScale] == 1);
  CHECK(numbers_from({32}, 0, 1)[update::kGradientScale] == 1);
}

// Kills: an update with a loss or a norm that is no number.
TEST_CASE("an update is not applied where loss or norm is not finite", "[ops][update_numbers]") {
  const double inf = std::numeric_limits<double>::infinity();
  CHECK(numbers_from({NAN}, 25, 2)[update::kApplied] == 0);
  CHECK(numbers_from({1, inf}, 25, 2)[update::kApplied] == 0);
  CHECK(numbers_from({1}, inf, 2)[update::kApplied] == 0);
  CHECK(numbers_from({1}, NAN, 2)[update::kApplied] == 0);
}
