#include "core/stream.h"
#include "kernels/ops.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/complex_step.h"
#include "support/error_of.h"
#include "support/few_shapes.h"
#include "support/host_tensor.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

using namespace sffn;
using namespace sffn::test;

namespace {

constexpr DType kF32 = DType::kF32, kF64 = DType::kF64;
constexpr double kEpsilon = 1e-4, kInfinity = std::numeric_limits<double>::infinity();

int64_t capacity(int64_t tokens, int64_t blocks) { return (tokens + blocks - 1) / blocks; }

std::vector<int64_t> assigned(DType dtype, int64_t tokens, int64_t blocks, const std::vector<double>& logits,
                              int64_t groups = 1, double epsilon = kEpsilon, int64_t rounds = 256) {
  HostTensor out(DType::kI32, {tokens, 1}, std::vector<double>(static_cast<size_t>(tokens), -7));
  Stream stream(cpu_runtime());
  ops::auction(stream, out, HostTensor(dtype, {tokens, blocks}, logits), groups, epsilon, rounds);
  std::vector<int64_t> chosen;
  for (double block : out.values()) chosen.push_back(static_cast<int64_t>(block));
  chosen.resize(static_cast<size_t>(tokens));
  return chosen;
}

// Every token of a group has a block and no block more than its places.
void check_balanced(const std::vector<int64_t>& chosen, int64_t blocks, int64_t groups = 1) {
  const auto n = static_cast<int64_t>(chosen.size()) / groups;
  for (int64_t s = 0; s < groups; ++s) {
    std::vector<int64_t> load(static_cast<size_t>(blocks), 0);
    for (int64_t t = s * n; t < (s + 1) * n; ++t) {
      REQUIRE((chosen[t] >= 0 && chosen[t] < blocks));
      ++load[chosen[t]];
    }
    CHECK(*std::max_element(load.begin(), load.end()) <= capacity(n, blocks));
  }
}

double taken(const std::vector<int64_t>& chosen, int64_t blocks, const std::vector<double>& logits) {
  double sum = 0;
  for (size_t t = 0; t < chosen.size(); ++t) sum += logits[t * static_cast<size_t>(blocks) + chosen[t]];
  return sum;
}

// The largest sum of all balanced assignments, by trying each.
double best_sum(int64_t tokens, int64_t blocks, const std::vector<double>& logits) {
  double best = -kInfinity;
  std::vector<int64_t> chosen(static_cast<size_t>(tokens), 0);
  while (true) {
    bool fits = true;
    for (int64_t i = 0; i < blocks; ++i) {
      fits = fits && std::count(chosen.begin(), chosen.end(), i) <= capacity(tokens, blocks);
    }
    if (fits) best = std::max(best, taken(chosen, blocks, logits));
    size_t t = 0;
    while (t < chosen.size() && ++chosen[t] == blocks) chosen[t++] = 0;
    if (t == chosen.size()) return best;
  }
}

}  // namespace

// Kills: bids that stop too early, places that are not similar objects, prices kept where places stay free.
TEST_CASE("an auction finds the best balanced assignment", "[ops][auction]") {
  for (DType dtype : {kF32, kF64}) {
    for (int64_t blocks : {1, 2, 3, 4}) {
      for (int64_t tokens : {1, 2, 3, 5, 6, 7}) {
        for (uint64_t stream = 1; stream <= 8; ++stream) {
          const auto count = static_cast<size_t>(tokens * blocks);
          std::vector<double> logits = stream % 2 ? random_values(count, stream) : integer_values(count, stream, 3);
          for (double& x : logits) x = static_cast<double>(static_cast<float>(x));
          const auto chosen = assigned(dtype, tokens, blocks, logits);
          check_balanced(chosen, blocks);
          const double slack = static_cast<double>(blocks * capacity(tokens, blocks)) * kEpsilon;
          INFO(tokens << " tokens, " << blocks << " blocks, stream " << stream);
          CHECK(taken(chosen, blocks, logits) >= best_sum(tokens, blocks, logits) - slack);
        }
      }
    }
  }
}

// Kills: a bid, a price or a place that depends on how many blocks or places there are.
TEST_CASE("an auction in f32 takes what double takes", "[ops][auction]") {
  for (auto [tokens, blocks] : {std::array<int64_t, 2>{40, 70}, {100, 33}, {100, 64}, {150, 3}, {64, 8}, {33, 1}}) {
    for (int limit : {0, 3}) {  // of integers, so that many tie
      const auto count = static_cast<size_t>(2 * tokens * blocks);
      auto logits = limit == 0 ? random_values(count, 7) : integer_values(count, 7, limit);
      for (double& x : logits) x = static_cast<double>(static_cast<float>(x));
      CHECK(assigned(kF32, 2 * tokens, blocks, logits, 2) == assigned(kF64, 2 * tokens, blocks, logits, 2));
    }
  }
}

// Kills: a tie that goes to the higher block or depends on the heap's layout.
TEST_CASE("tokens with equal logits fill the blocks in order", "[ops][auction]") {
  for (double value : {0.0, 3.5, -1e4, 1e30}) {
    CHECK(assigned(kF32, 5, 2, std::vector<double>(10, value)) == std::vector<int64_t>{0, 0, 0, 1, 1});
    CHECK(assigned(kF32, 6, 3, std::vector<double>(18, value)) == std::vector<int64_t>{0, 0, 1, 1, 2, 2});
    CHECK(assigned(kF32, 2, 5, std::vector<double>(10, value)) == std::vector<int64_t>{0, 1});
    CHECK(assigned(kF32, 3, 1, std::vector<double>(3, value)) == std::vector<int64_t>{0, 0, 0});
  }
  CHECK(assigned(kF32, 0, 3, {}).empty());
}

// Kills: groups that share places or prices.
TEST_CASE("each group is an auction of its own", "[ops][auction]") {
  const auto logits = random_values(60 * 5, 1);
  const auto all = assigned(kF32, 60, 5, logits, 3);
  check_balanced(all, 5, 3);
  for (size_t s = 0; s < 3; ++s) {
    const auto alone = assigned(kF32, 20, 5, {logits.begin() + s * 100, logits.begin() + (s + 1) * 100});
    CHECK(std::equal(alone.begin(), alone.end(), all.begin() + static_cast<int64_t>(s) * 20));
  }
}

// Kills: prices that stop rising beside a large logit; a war of bids in steps of epsilon.
TEST_CASE("an auction ends on logits of any size, on equal tokens and on crowded blocks", "[ops][auction]") {
  const int64_t tokens = 1024, blocks = 32;
  const auto normal = random_values(tokens * blocks, 1);
  for (double scale : all_or_few({1e-30, 1.0, 1e4, 1e30, 3e37}, {1.0})) {
    for (int kind = 0; kind < 4; ++kind) {
      std::vector<double> logits(normal);
      for (size_t c = 0; c < logits.size(); ++c) {
        if (kind == 1) logits[c] = normal[c % blocks];                            // all tokens are one
        if (kind == 2) logits[c] = normal[c / blocks % 5 * blocks + c % blocks];  // five kinds of tokens
        if (kind == 3) logits[c] += c % blocks == 0 ? 8 : 0;                      // all want block 0
        logits[c] *= scale;
      }
      check_balanced(assigned(kF32, tokens, blocks, logits), blocks);
    }
  }
  check_balanced(assigned(kF64, 40, 4, random_values(160, 1, 1e300)), 4);
  check_balanced(assigned(kF32, 1000, 3, random_values(3000, 2), 1, 1e-300), 3);
}

// Kills: bids without end; a token without a place, or two in one, where bids are used up; another place than the first
// free one.
TEST_CASE("an auction that is out of rounds gives the first free places, and more rounds give a better sum",
          "[ops][auction]") {
  for (const auto& [tokens, blocks] : {std::array<int64_t, 2>{200, 70}, {150, 4}, {33, 1}}) {
    const std::vector<double> strength = random_values(static_cast<size_t>(tokens), 5);
    std::vector<double> logits;  // all tokens like the last blocks, some more than others
    for (int64_t c = 0; c < tokens * blocks; ++c) {
      logits.push_back(
          static_cast<float>(std::abs(strength[static_cast<size_t>(c / blocks)]) * static_cast<double>(c % blocks)));
    }
    std::vector<double> sums;
    for (const int64_t rounds : {1, 2, 256}) {
      const auto chosen = assigned(kF32, tokens, blocks, logits, 1, kEpsilon, rounds);
      check_balanced(chosen, blocks);
      CHECK(chosen == assigned(kF64, tokens, blocks, logits, 1, kEpsilon, rounds));
      sums.push_back(taken(chosen, blocks, logits));
    }
    CHECK(std::max(sums[0], sums[1]) <= sums[2]);
    if (blocks == 70) CHECK(sums[0] < sums[2]);
  }
}

// Kills: NaN or infinity in a price; NaN taken where a number was to be had.
TEST_CASE("NaN and minus infinity are avoided where they can be, plus infinity is sought", "[ops][auction]") {
  const double nan = std::nan("");
  for (DType dtype : {kF32, kF64}) {
    CHECK(assigned(dtype, 2, 2, {nan, -100, 50, 3}) == std::vector<int64_t>{1, 0});
    CHECK(assigned(dtype, 2, 2, {-kInfinity, -100, 50, 3}) == std::vector<int64_t>{1, 0});
    CHECK(assigned(dtype, 2, 2, {5, kInfinity, 1, 1000}) == std::vector<int64_t>{1, 0});
    // one of the two has to take NaN: the sum of the rest decides nothing more than who
    CHECK(assigned(dtype, 2, 2, {nan, 1, nan, 5}) == std::vector<int64_t>{0, 1});
    check_balanced(assigned(dtype, 7, 3, std::vector<double>(21, nan)), 3);
    check_balanced(assigned(dtype, 7, 3, std::vector<double>(21, kInfinity)), 3);
  }
}

// Kills: an option or a tensor that does not fit let through.
TEST_CASE("an auction refuses what does not fit", "[ops][auction][contract]") {
  Stream s(cpu_runtime());
  const HostTensor logits(kF32, {4, 3}), blocks(DType::kI32, {4, 1}), wide(DType::kI32, {4, 2});
  const auto message = [&](auto&& run) { return error_of(run).what; };
  CHECK(message([&] { ops::auction(s, wide, logits, 1, kEpsilon, 1); }) ==
        "auction: blocks is i32 [4, 2] on cpu; expected i32 [4, 1] on cpu");
  CHECK(message([&] { ops::auction(s, blocks, logits, 3, kEpsilon, 1); }) ==
        "auction: 4 tokens cannot be cut into 3 equal groups; expected a divisor");
  CHECK(message([&] { ops::auction(s, blocks, logits, 1, 0, 1); }) ==
        "auction: epsilon is 0; expected a positive number");
  CHECK(message([&] { ops::auction(s, blocks, logits, 1, 1, 0); }) == "auction: rounds are 0; expected at least 1");
}

// Kills: state that threads share.
TEST_CASE("an auction gives the same blocks for any number of threads", "[ops][auction]") {
  const auto logits = random_values(900 * 16, 1);
  check_same_on_any_threads([&] { return assigned(kF32, 900, 16, logits, 9); });
}
