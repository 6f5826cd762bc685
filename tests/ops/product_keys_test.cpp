#include "kernels/ref/product_keys.h"

#include "core/stream.h"
#include "kernels/ops.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/complex_step.h"
#include "support/error_of.h"
#include "support/few_shapes.h"
#include "support/host_tensor.h"
#include "support/tolerances.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>
#include <utility>

using namespace sffn;
using namespace sffn::test;

namespace {

constexpr DType kF32 = DType::kF32, kF64 = DType::kF64;
constexpr double kInf = std::numeric_limits<double>::infinity();

struct Problem {
  ref::ProductKeySizes s;
  std::vector<double> s1, s2;

  Problem(int64_t H, int64_t N, int64_t C1, int64_t C2, int64_t k)
      : s{.H = H, .N = N, .C1 = C1, .C2 = C2, .k = k},
        s1(random_values(static_cast<size_t>(H * N * C1), 1)),
        s2(random_values(static_cast<size_t>(H * N * C2), 2)) {}
  HostTensor half1(DType dtype) const { return HostTensor(dtype, {s.H, s.N, s.C1}, s1); }
  HostTensor half2(DType dtype) const { return HostTensor(dtype, {s.H, s.N, s.C2}, s2); }
};

struct Chosen {
  HostTensor cells, nans;
  std::vector<double> ids() const { return cells.values(); }
};

Chosen choose(DType dtype, const Problem& p) {
  Chosen chosen{HostTensor(DType::kI32, {p.s.N, p.s.H * p.s.k}), HostTensor(kF64, {1}, {5})};
  Stream stream(cpu_runtime());
  ops::product_top_k(stream, chosen.cells, chosen.nans, p.half1(dtype), p.half2(dtype));
  return chosen;
}

// What the equation says, in floats: all sums, ranked by value and then by cell.
std::vector<double> brute_force(const Problem& p) {
  std::vector<float> s1(p.s1.begin(), p.s1.end()), s2(p.s2.begin(), p.s2.end());
  std::vector<double> cells;
  for (int64_t n = 0; n < p.s.N; ++n) {
    for (int64_t h = 0; h < p.s.H; ++h) {
      std::vector<std::pair<float, int64_t>> ranked;
      for (int64_t i1 = 0; i1 < p.s.C1; ++i1) {
        for (int64_t i2 = 0; i2 < p.s.C2; ++i2) {
          const float sum = s1[static_cast<size_t>((h * p.s.N + n) * p.s.C1 + i1)] +
                            s2[static_cast<size_t>((h * p.s.N + n) * p.s.C2 + i2)];
          ranked.emplace_back(std::isnan(sum) ? -std::numeric_limits<float>::infinity() : -sum, i1 * p.s.C2 + i2);
          if (std::isnan(sum)) ranked.back().second -= p.s.C1 * p.s.C2;  // above infinity
        }
      }
      std::sort(ranked.begin(), ranked.end());
      std::vector<double> best;
      for (int64_t i = 0; i < p.s.k; ++i) {
        const int64_t id = ranked[static_cast<size_t>(i)].second;
        best.push_back(static_cast<double>(id < 0 ? id + p.s.C1 * p.s.C2 : id));
      }
      std::sort(best.begin(), best.end());
      cells.insert(cells.end(), best.begin(), best.end());
    }
  }
  return cells;
}

constexpr std::array<int64_t, 5> kSizes[] = {  // H, N, C1, C2, k
    {1, 0, 3, 3, 2},    {1, 1, 1, 1, 1},   {2, 5, 3, 7, 1},     {1, 4, 3, 7, 21},
    {3, 4, 2, 9, 11},   {1, 9, 31, 33, 8}, {2, 33, 33, 31, 64}, {1, 31, 127, 1, 5},
    {4, 7, 16, 16, 16}, {1, 3, 4, 4, 13},  {1, 2, 300, 3, 40},  {1, 1, 2, 20000, 50}};

std::span<const std::array<int64_t, 5>> some_sizes() {
  return std::span(kSizes).first(few_shapes() ? 6 : std::size(kSizes));
}

std::vector<Complex> complex_scores(const Problem& p, std::vector<Complex> x, bool all) {
  Chosen chosen = choose(kF64, p);
  const int64_t half1 = p.s.H * p.s.N * p.s.C1;
  std::vector<Complex> scores(static_cast<size_t>(p.s.N * p.s.H * p.s.k));
  Stream stream(cpu_runtime());
  ops::product_scores_forward(stream, Tensor(scores.data(), {p.s.N, p.s.H * p.s.k}, DType::kC128, Device::cpu()),
                              Tensor(x.data(), {p.s.H, p.s.N, p.s.C1}, DType::kC128, Device::cpu()),
                              Tensor(x.data() + half1, {p.s.H, p.s.N, p.s.C2}, DType::kC128, Device::cpu()),
                              all ? Tensor() : chosen.cells);
  return scores;
}

// ds1, then ds2
std::vector<double> backward(DType dtype, const Problem& p, const std::vector<double>& dscores, bool all) {
  const std::vector<double> stale1(p.s1.size(), 77), stale2(p.s2.size(), 77);
  HostTensor ds1(dtype, {p.s.H, p.s.N, p.s.C1}, stale1), ds2(dtype, {p.s.H, p.s.N, p.s.C2}, stale2);
  Chosen chosen = choose(dtype, p);
  Stream stream(cpu_runtime());
  ops::product_scores_backward(stream, ds1, ds2, HostTensor(dtype, {p.s.N, p.s.H * p.s.k}, dscores),
                               all ? Tensor() : chosen.cells);
  std::vector<double> result = ds1.values(), second = ds2.values();
  result.insert(result.end(), second.begin(), second.end());
  return result;
}

}  // namespace

// Kills: too few candidates of a half, a list cut at the wrong rank, C1 taken for C2, heads or tokens mixed up.
TEST_CASE("product top-k chooses the largest of all sums", "[ops][product_keys]") {
  for (const auto& [H, N, C1, C2, k] : some_sizes()) {
    const Problem p(H, N, C1, C2, k);
    INFO(H << " heads, " << N << " tokens, " << C1 << " x " << C2 << ", k " << k);
    CHECK(choose(kF32, p).ids() == brute_force(p));
    CHECK(choose(kF64, p).ids() == brute_force(p));  // no sums of these are equal in float
  }
}

// Kills: ties that go to the wrong cell: within a row, between rows, at the border of the candidates of a half.
TEST_CASE("of equal sums product top-k takes the lower cells", "[ops][product_keys]") {
  for (const int range : {0, 1, 3}) {
    for (const auto& [H, N, C1, C2, k] : some_sizes()) {
      Problem p(H, N, C1, C2, k);
      p.s1 = integer_values(p.s1.size(), 3, range), p.s2 = integer_values(p.s2.size(), 4, range);
      INFO(H << " heads, " << N << " tokens, " << C1 << " x " << C2 << ", k " << k << ", range " << range);
      CHECK(choose(kF32, p).ids() == brute_force(p));
      CHECK(choose(kF64, p).ids() == brute_force(p));
    }
  }
}

// Kills: a choice among the best halves only, which misses lower cells whose sums round to the same number.
TEST_CASE("unequal half scores whose sums round to one number tie", "[ops][product_keys]") {
  Problem p(1, 1, 3, 1, 1);
  p.s1 = {1, 1.5, 2}, p.s2 = {0x1p30};
  CHECK(choose(kF32, p).ids() == std::vector<double>{0});
  CHECK(choose(kF64, p).ids() == std::vector<double>{2});
  p.s1 = {-0.0, 0.0, -1}, p.s2 = {-0.0};  // two zeros
  CHECK(choose(kF32, p).ids() == std::vector<double>{0});
  for (int64_t k : {1, 3, 7}) {
    Problem q(2, 20, 9, 8, k);
    for (double& x : q.s2) x = std::round(x) * 0x1p24;
    CHECK(choose(kF32, q).ids() == brute_force(q));
  }
}

// Kills: NaN skipped or lost, ∞ - ∞ overlooked, an overflow that is taken for a bad input.
TEST_CASE("NaN is chosen first and counted; infinities and overflow keep the order of sums", "[ops][product_keys]") {
  Problem p(1, 4, 3, 4, 2);
  p.s1 = {0, 1, 2, 0, std::nan(""), 2, 1, kInf, 0, 3e38, 1, 3.1e38};
  p.s2 = {0, 3, 1, 3, 0, 1, 2, 9, 5, -kInf, 0, 4, 3e38, 0, -1, 3.2e38};
  const Chosen chosen = choose(kF32, p);
  CHECK(chosen.ids() == std::vector<double>{9, 11, 4, 5, 4, 5, 0, 3});
  CHECK(chosen.ids() == brute_force(p));
  CHECK(chosen.nans.values() == std::vector<double>{5 + 4 + 1});
}

// Kills: a gradient to the wrong half, "=" for "+=" where cells share a half key, stale values left.
TEST_CASE("the gradient of product scores is their complex step", "[ops][product_keys]") {
  for (const auto& [H, N, C1, C2, k] : some_sizes()) {
    for (const bool all : {false, true}) {
      if (H * N * C1 * C2 > 400 || (all && (H != 1 || k != C1 * C2))) continue;
      const Problem p(H, N, C1, C2, k);
      std::vector<double> x = p.s1;
      x.insert(x.end(), p.s2.begin(), p.s2.end());
      const std::vector<double> dscores = random_values(static_cast<size_t>(N * H * k), 5);
      const std::vector<double> expected =
          complex_step_gradient(x, dscores, [&](const std::vector<Complex>& at) { return complex_scores(p, at, all); });
      check_close(backward(kF64, p, dscores, all), expected, 1e-12);
      check_close(backward(kF32, p, dscores, all), expected, 1e-5);
    }
  }
}

// Kills: a wrong half in the fast gather, a row of all scores cut short.
TEST_CASE("product scores in f32 are sums of half scores", "[ops][product_keys]") {
  Stream stream(cpu_runtime());
  for (const auto& [H, N, C1, C2, k] : some_sizes()) {
    Problem p(H, N, C1, C2, k);
    p.s1 = integer_values(p.s1.size(), 3, 50), p.s2 = integer_values(p.s2.size(), 4, 50);
    HostTensor low(kF32, {N, H * k}), exact(kF64, {N, H * k});
    const Chosen chosen = choose(kF32, p);
    ops::product_scores_forward(stream, low, p.half1(kF32), p.half2(kF32), chosen.cells);
    ops::product_scores_forward(stream, exact, p.half1(kF64), p.half2(kF64), chosen.cells);
    CHECK(low.values() == exact.values());
    if (H != 1) continue;
    HostTensor all(kF32, {N, C1 * C2});
    ops::product_scores_forward(stream, all, p.half1(kF32), p.half2(kF32), Tensor());
    const std::vector<double> scores = all.values();
    for (int64_t e = 0; e < N * C1 * C2; ++e) {
      const int64_t n = e / (C1 * C2), i1 = e / C2 % C1, i2 = e % C2;
      REQUIRE(scores[static_cast<size_t>(e)] ==
              p.s1[static_cast<size_t>(n * C1 + i1)] + p.s2[static_cast<size_t>(n * C2 + i2)]);
    }
  }
}

// Kills: an id read outside the half keys.
TEST_CASE("product scores refuse cells that do not exist", "[ops][product_keys][cpu]") {
  Stream s(cpu_runtime());
  const HostTensor s1(kF32, {2, 3, 4}), s2(kF32, {2, 3, 5}), scores(kF32, {3, 4});
  const HostTensor bad(DType::kI32, {3, 4}, {0, 1, 2, 3, 4, 20, 0, 0, 0, 0, 0, 0});
  const auto message = [&](auto&& run) { return error_of(run).what; };
  CHECK(message([&] { ops::product_scores_forward(s, scores, s1, s2, bad); }) ==
        "product_scores_forward: cells[1, 1] is 20; expected 0 to 19");
  CHECK(message([&] { ops::product_scores_backward(s, s1, s2, scores, bad); }) ==
        "product_scores_backward: cells[1, 1] is 20; expected 0 to 19");
}

// Kills: shapes that fit nothing let through.
TEST_CASE("product keys refuse tensors that do not fit", "[ops][product_keys][contract]") {
  Stream s(cpu_runtime());
  const HostTensor s1(kF32, {2, 3, 4}), s2(kF32, {2, 3, 5}), other(kF32, {2, 4, 5}), scores(kF32, {3, 4});
  const HostTensor cells(DType::kI32, {3, 4}), many(DType::kI32, {3, 42});
  const auto message = [&](auto&& run) { return error_of(run).what; };
  CHECK(message([&] { ops::product_top_k(s, many, Tensor(), s1, s2); }) ==
        "product_top_k: 21 cells a head are asked of 20; expected at most all of them");
  CHECK(message([&] { ops::product_top_k(s, cells, Tensor(), s1, other); }) ==
        "product_top_k: s2 is f32 [2, 4, 5] on cpu; expected f32 [2, 3, 5] on cpu");
  CHECK(message([&] { ops::product_scores_forward(s, scores, s1, s2, Tensor()); }) ==
        "product_scores_forward: the half scores are of 2 heads; expected 1 where cells is absent");
}

// Kills: rows cut by the number of threads, memory of threads that carries over.
TEST_CASE("product keys give the same bits for any number of threads", "[ops][product_keys]") {
  const Problem p(3, 700, 31, 33, 9);
  const std::vector<double> dscores = random_values(static_cast<size_t>(700 * 27), 5);
  check_same_on_any_threads([&] { return std::pair(choose(kF32, p).ids(), backward(kF32, p, dscores, false)); });
}

// Kills: a part taken for another, "=" for "+=", rows mixed up.
TEST_CASE("columns split into parts join to what they were", "[ops][product_keys]") {
  Stream stream(cpu_runtime());
  for (const auto& [P, N, W] : {std::array<int64_t, 3>{1, 1, 1}, {2, 31, 33}, {8, 127, 5}, {3, 5, 16}, {2, 0, 3}}) {
    for (DType dtype : {kF32, DType::kBF16, kF64}) {
      const std::vector<double> values = integer_values(static_cast<size_t>(P * N * W), 9, 50);
      const HostTensor x(dtype, {N, P * W}, values), parts(dtype, {P, N, W}), back(dtype, {N, P * W});
      ops::split_columns(stream, parts, x);
      const std::vector<double> split = parts.values();
      for (int64_t e = 0; e < P * N * W; ++e) {
        const int64_t p = e / (N * W), n = e / W % N, j = e % W;
        REQUIRE(split[static_cast<size_t>(e)] == values[static_cast<size_t>(n * P * W + p * W + j)]);
      }
      ops::join_columns(stream, back, parts, Accumulate::kNo);
      CHECK(back.values() == values);
      ops::join_columns(stream, back, parts, Accumulate::kYes);
      std::vector<double> doubled = values;
      for (double& v : doubled) v *= 2;
      CHECK(back.values() == doubled);
    }
  }
}
