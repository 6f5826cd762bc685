#include "kernels/ref/block_scores.h"

#include "kernels/ops.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/complex_step.h"
#include "support/error_of.h"
#include "support/host_tensor.h"
#include "support/tolerances.h"

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

using namespace sffn;
using namespace sffn::test;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr BlockAggregate kOfScores[] = {BlockAggregate::kMean, BlockAggregate::kMin, BlockAggregate::kMax,
                                        BlockAggregate::kMeanAbs};

struct ScoresCase {
  BlockAggregate aggregate;
  HostTensor cells, scores, dscores, dcells;

  ScoresCase(DType dtype, BlockAggregate aggregate, int64_t N, int64_t B, const std::vector<double>& values)
      : aggregate(aggregate) {
    const int64_t M = N == 0 ? B : static_cast<int64_t>(values.size()) / N;
    cells = HostTensor(dtype, {N, M}, values);
    scores = HostTensor(dtype, {N, B});
    dscores = HostTensor(dtype, {N, B}, random_values(static_cast<size_t>(N * B), 3));
    dcells = HostTensor(dtype, {N, M}, random_values(static_cast<size_t>(N * M), 4));
  }
  void run() {
    Stream stream(cpu_runtime());
    ops::block_scores_forward(stream, scores, cells, aggregate);
    ops::block_scores_backward(stream, dcells, dscores, cells, aggregate);
  }
};

}  // namespace

// Kills: any term of a gradient; the gradient of an extreme given to all cells, or kept from before.
TEST_CASE("the reference block scores' backward is the complex step of their forward", "[ops][block_scores]") {
  const int64_t R = 6, G = 5;
  const auto cells = random_values(R * G, 1), dscores = random_values(R, 2);
  for (const BlockAggregate aggregate : kOfScores) {
    std::vector<double> dcells(cells.size(), 9);
    ref::block_scores_backward(dcells.data(), dscores.data(), cells.data(), R, G, aggregate);
    INFO("aggregate " << static_cast<int>(aggregate));
    check_close(dcells,
                complex_step_gradient(cells, dscores,
                                      [&](const std::vector<Complex>& x) {
                                        std::vector<Complex> scores(R);
                                        ref::block_scores_forward(scores.data(), x.data(), R, G, aggregate);
                                        return scores;
                                      }),
                1e-14);
  }
}

// Kills: a lost tail or lane, a block that reads its neighbour, an extreme that begins at 0.
TEST_CASE("block scores in f32 are those of double", "[ops][block_scores]") {
  for (const BlockAggregate aggregate : kOfScores) {
    for (int64_t G : {1, 2, 31, 32, 33, 64, 127}) {
      for (int64_t N : {0, 1, 33}) {
        const int64_t B = 7;
        auto values = random_values(static_cast<size_t>(N * B * G), 1);
        for (double& v : values) v -= aggregate == BlockAggregate::kMax ? 5 : -5;
        ScoresCase low(DType::kF32, aggregate, N, B, values), ref(DType::kF64, aggregate, N, B, low.cells.values());
        ref.dscores = low.dscores.as(DType::kF64);
        low.run();
        ref.run();
        INFO("aggregate " << static_cast<int>(aggregate) << ", G = " << G << ", N = " << N);
        const auto scores = ref.scores.values(), dcells = ref.dcells.values();
        check_within(low.scores.values(), scores,
                     [&](size_t i) { return tolerances::sum_of_products(G, 10, scores[i], DType::kF32); });
        check_within(low.dcells.values(), dcells,
                     [&](size_t i) { return tolerances::elementwise(2, std::abs(dcells[i]), dcells[i], DType::kF32); });
        if (aggregate == BlockAggregate::kMin || aggregate == BlockAggregate::kMax) {
          CHECK(low.scores.values() == scores);
        }
      }
    }
  }
}

// Kills: ties to the last cell, a gradient shared by ties, sign(0) = 1, an extreme that passes over NaN.
TEST_CASE("ties, zeros and NaN have one rule", "[ops][block_scores]") {
  const DType dtype = GENERATE(DType::kF32, DType::kF64);
  const auto run = [&](BlockAggregate aggregate, const std::vector<double>& cells) {
    ScoresCase c(dtype, aggregate, 1, 1, cells);
    c.dscores = HostTensor(dtype, {1, 1}, {4});
    c.run();
    return std::pair(c.scores.values()[0], c.dcells.values());
  };
  using Cells = std::vector<double>;
  CHECK(run(BlockAggregate::kMax, {1, 2, 2, 1}) == std::pair(2.0, Cells{0, 4, 0, 0}));
  CHECK(run(BlockAggregate::kMin, {3, -1, 5, -1}) == std::pair(-1.0, Cells{0, 4, 0, 0}));
  CHECK(run(BlockAggregate::kMeanAbs, {-2, 0, 2, 4}) == std::pair(2.0, Cells{-1, 0, 1, 1}));
  CHECK(run(BlockAggregate::kMean, {-2, 0, 2, 4}) == std::pair(1.0, Cells{1, 1, 1, 1}));
  for (const BlockAggregate aggregate : {BlockAggregate::kMin, BlockAggregate::kMax}) {
    for (int64_t G : {3, 40, 70}) {
      for (size_t place : {size_t{0}, size_t{1}, static_cast<size_t>(G - 2)}) {
        auto cells = random_values(static_cast<size_t>(G), 1);
        cells[place] = cells.back() = kNaN;
        const auto [score, gradient] = run(aggregate, cells);
        CHECK(std::isnan(score));
        CHECK(gradient[place] == 4);
        CHECK(gradient.back() == 0);
      }
    }
  }
}

// Kills: partial results per thread.
TEST_CASE("block scores give the same bits for any number of threads", "[ops][block_scores]") {
  for (const BlockAggregate aggregate : kOfScores) {
    check_same_on_any_threads([&] {
      ScoresCase c(DType::kF32, aggregate, 50, 31, random_values(50 * 31 * 48, 1));
      c.run();
      return std::pair(c.scores.bytes(), c.dcells.bytes());
    });
  }
}

// Kills: a check forgotten for one argument.
TEST_CASE("block scores refuse tensors that do not fit", "[ops][block_scores][contract]") {
  Stream s(cpu_runtime());
  const auto outline = [](Shape shape, DType dtype = DType::kF32) {
    return Tensor(nullptr, shape, dtype, Device::cpu());
  };
  const auto forward = [&](Tensor scores, Tensor cells, BlockAggregate aggregate = BlockAggregate::kMean) {
    return error_of([&] { ops::block_scores_forward(s, scores, cells, aggregate); }).what;
  };
  CHECK(forward(outline({4, 5}), outline({4, 12})) ==
        "block_scores_forward: 12 cells in 5 blocks; expected a whole number of cells a block");
  CHECK(forward(outline({3, 6}), outline({4, 12})).rfind("block_scores_forward: scores ", 0) == 0);
  CHECK(forward(outline({4, 6}), outline({4, 12}, DType::kBF16)).rfind("block_scores_forward: cells ", 0) == 0);
  CHECK(forward(outline({4, 6}), outline({4, 12}), BlockAggregate::kL2Mean) ==
        "block_scores_forward: the aggregate is one of keys; expected mean, min, max or mean_abs");
  CHECK(error_of([&] {
          ops::block_scores_backward(s, outline({4, 6}), outline({4, 6}), outline({4, 12}), BlockAggregate::kMin);
        }).what.rfind("block_scores_backward: dcells ", 0) == 0);
}
