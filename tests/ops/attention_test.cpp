#include "kernels/ref/attention.h"

#include "support/catch.h"

#include "ops/attention_case.h"

#include <algorithm>
#include <cmath>
#include <limits>

#ifdef _OPENMP
#include <omp.h>
#endif

using namespace sffn;
using namespace sffn::test;

namespace {

AttentionShape shape_of(int64_t batch, int64_t time, int64_t heads, int64_t kv_heads, int64_t head_dim) {
  return {batch, time, heads, kv_heads, head_dim, 1 / std::sqrt(static_cast<double>(head_dim))};
}

Dropout some_dropout(double probability) { return {probability, {11, 12}, 1003}; }

// |actual - expected| <= tolerance·(scale + |expected|)
void check_near(const std::vector<double>& actual, const std::vector<double>& expected, double tolerance,
                double scale) {
  REQUIRE(actual.size() == expected.size());
  double worst = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    const double error = std::abs(actual[i] - expected[i]) / (scale + std::abs(expected[i]));
    if (!(error <= worst)) worst = error;
  }
  CHECK(worst <= tolerance);
}

// Inputs as T holds them, so that both sides see the same numbers.
template <class T>
AttentionCase rounded(AttentionCase c) {
  c.qkv = widened(converted<T>(c.qkv));
  c.dout = widened(converted<T>(c.dout));
  return c;
}

// The kernels against ref in double on the same rounded inputs. A score is a sum of d_h products of size about 1/√d_h,
// wrong by about ε·√d_h·|q||k|/d_h <= ε·√d_h; it enters p as a relative error, as do ε·√T of the sums and ε of exp; the
// factor 8 is for the largest of many. bf16: the products are fp32's, but out rounds to 2⁻⁸ and feeds D = Σ dout·out,
// √d_h terms of that size, and so every gradient.
template <class T>
void check_against_reference(const AttentionCase& c) {
  const AttentionResult<T> fast = run_attention<T>(c);
  const AttentionResult<double> exact = run_attention<double>(rounded<T>(c));
  const double eps = std::numeric_limits<float>::epsilon(), kept = 1 / (1 - c.dropout.probability);
  const double size = std::sqrt(static_cast<double>(c.shape.head_dim)) + std::sqrt(static_cast<double>(c.shape.time));
  const double rounding = std::is_same_v<T, bfloat16> ? 0x1p-8 : 0;
  const double group = std::sqrt(static_cast<double>(c.shape.heads / c.shape.kv_heads));
  check_near(widened(fast.lse), exact.lse, 8 * eps * size, 1);
  check_near(widened(fast.out), exact.out, 8 * eps * size * kept + rounding, 1);
  check_near(widened(fast.dqkv), exact.dqkv, (32 * eps * size + 4 * rounding) * kept * group, 1);
}

template <class T>
void check_sizes(bool masked, double probability) {
  for (int64_t time : {1, 31, 33, 127, 200}) {
    for (int64_t head_dim : {16, 41, 64, 128}) {
      AttentionCase c(shape_of(2, time, 2, head_dim == 64 ? 1 : 2, head_dim));
      if (masked) c.segment_start = uneven_documents(c.shape, 37);
      if (probability > 0) c.dropout = some_dropout(probability);
      INFO("time " << time << ", head_dim " << head_dim);
      check_against_reference<T>(c);
    }
  }
}

std::vector<double> reference_gradient(const AttentionCase& c) {
  return complex_step_gradient(c.qkv, c.dout, [&](const std::vector<Complex>& qkv) {
    std::vector<Complex> out(c.dout.size()), lse(c.dout.size());
    ref::attention_forward(out.data(), lse.data(), qkv.data(),
                           c.segment_start.empty() ? nullptr : c.segment_start.data(), c.shape, c.dropout);
    return out;
  });
}

// Rows [first, first + count) of a matrix.
std::vector<double> rows(const std::vector<double>& matrix, int64_t width, int64_t first, int64_t count) {
  return {matrix.begin() + first * width, matrix.begin() + (first + count) * width};
}

}  // namespace

// Kills: a missing -D in dS, the scale left out of dq or dk, key heads summed over the wrong query heads.
TEST_CASE("the reference gradients of q, k and v are the complex step of the forward", "[ops][attention]") {
  AttentionCase c(shape_of(2, 6, 4, 2, 3));
  SECTION("plain") {}
  SECTION("dropout") { c.dropout = some_dropout(0.3); }
  SECTION("documents") { c.segment_start = {0, 0, 2, 2, 2, 5, 0, 1, 1, 1, 4, 4}; }
  SECTION("all of it, one key head") {
    c = AttentionCase(shape_of(2, 6, 4, 1, 3));
    c.dropout = some_dropout(0.5);
    c.segment_start = {0, 0, 2, 2, 2, 5, 0, 1, 1, 1, 4, 4};
  }
  check_close(run_attention<double>(c).dqkv, reference_gradient(c), 1e-12);
}

// Kills: tails of tiles, strips or vectors left out or read beyond; the head read from the wrong columns.
TEST_CASE("attention in f32 and bf16 is the reference at every size", "[ops][attention]") {
  check_sizes<float>(false, 0);
  check_sizes<bfloat16>(false, 0);
}

// Kills: skipping a key tile that a few queries see; a dropout index that differs between forward and backward.
TEST_CASE("attention with documents and dropout is the reference at every size", "[ops][attention]") {
  check_sizes<float>(true, 0.25);
  check_sizes<bfloat16>(true, 0.25);
}

// Kills: dividing by a number of sequences or tokens that is zero.
TEST_CASE("attention of no sequences does nothing", "[ops][attention]") {
  CHECK(run_attention<float>(AttentionCase(shape_of(0, 64, 2, 2, 16))).out.empty());
  CHECK(run_attention<bfloat16>(AttentionCase(shape_of(0, 64, 2, 2, 16))).out.empty());
}

// Kills: work cut by the number of threads; scratch of one call that leaks into the next.
TEST_CASE("attention gives the same bits for any number of threads and any call before", "[ops][attention]") {
#ifdef _OPENMP
  AttentionCase c(shape_of(3, 150, 4, 2, 41));
  c.segment_start = uneven_documents(c.shape, 29);
  c.dropout = some_dropout(0.1);
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  const AttentionResult<float> one = run_attention<float>(c);
  const AttentionResult<bfloat16> one_bf16 = run_attention<bfloat16>(c);
  for (int threads : {2, 4}) {
    omp_set_num_threads(threads);
    run_attention<float>(AttentionCase(shape_of(2, 200, 2, 2, 128)));
    CHECK(run_attention<float>(c) == one);
    CHECK(run_attention<bfloat16>(c) == one_bf16);
  }
  omp_set_num_threads(before);
#endif
}

// Kills: a mask that lets a document see the one before it, or its backward.
TEST_CASE("masked documents are the documents run alone", "[ops][attention]") {
  AttentionCase whole(shape_of(1, 150, 4, 2, 32));
  const std::vector<int64_t> starts = {0, 5, 64, 65, 130, 150};
  for (size_t d = 0; d + 1 < starts.size(); ++d) {
    whole.segment_start.insert(whole.segment_start.end(), starts[d + 1] - starts[d], static_cast<int32_t>(starts[d]));
  }
  const AttentionResult<float> together = run_attention<float>(whole);
  for (size_t d = 0; d + 1 < starts.size(); ++d) {
    const int64_t first = starts[d], count = starts[d + 1] - starts[d];
    AttentionCase alone(shape_of(1, count, 4, 2, 32));
    alone.qkv = rows(whole.qkv, whole.shape.qkv_width(), first, count);
    alone.dout = rows(whole.dout, whole.shape.out_width(), first, count);
    const AttentionResult<float> result = run_attention<float>(alone);
    check_near(widened(result.out), rows(widened(together.out), whole.shape.out_width(), first, count), 1e-5, 1);
    check_near(widened(result.dqkv), rows(widened(together.dqkv), whole.shape.qkv_width(), first, count), 1e-5, 1);
  }
}

// Kills: a softmax over masked keys; an lse without the maximum.
TEST_CASE("the first row attends only to itself", "[ops][attention]") {
  const AttentionCase c = rounded<bfloat16>(AttentionCase(shape_of(2, 33, 2, 1, 16)));
  const AttentionResult<float> result = run_attention<float>(c);
  const AttentionResult<bfloat16> rounded_result = run_attention<bfloat16>(c);
  for (int64_t b = 0; b < 2; ++b) {
    for (int64_t h = 0; h < 2; ++h) {
      for (int64_t i = 0; i < 16; ++i) {
        const double value = c.qkv[(b * 33) * c.shape.qkv_width() + 3 * 16 + i];
        CHECK(result.out[(b * 33) * 32 + h * 16 + i] == value);
        CHECK(rounded_result.out[(b * 33) * 32 + h * 16 + i] == value);
      }
    }
  }
}

// Kills: a sequence that reads its neighbour's keys.
TEST_CASE("permuting sequences permutes outputs and gradients", "[ops][attention]") {
  const AttentionCase c(shape_of(2, 70, 2, 2, 24));
  AttentionCase swapped = c;
  std::rotate(swapped.qkv.begin(), swapped.qkv.begin() + c.qkv.size() / 2, swapped.qkv.end());
  std::rotate(swapped.dout.begin(), swapped.dout.begin() + c.dout.size() / 2, swapped.dout.end());
  const AttentionResult<float> expected = run_attention<float>(c);
  AttentionResult<float> result = run_attention<float>(swapped);
  std::rotate(result.out.begin(), result.out.begin() + result.out.size() / 2, result.out.end());
  std::rotate(result.dqkv.begin(), result.dqkv.begin() + result.dqkv.size() / 2, result.dqkv.end());
  std::rotate(result.lse.begin(), result.lse.begin() + result.lse.size() / 2, result.lse.end());
  CHECK(result == expected);
}

// Kills: a mask that is one key too wide.
TEST_CASE("later tokens change no earlier output", "[ops][attention]") {
  AttentionCase c(shape_of(1, 140, 2, 2, 16));
  const AttentionResult<float> before = run_attention<float>(c);
  const int64_t changed = 77;
  for (size_t x = static_cast<size_t>(changed * c.shape.qkv_width()); x < c.qkv.size(); ++x) c.qkv[x] = -2 * c.qkv[x];
  const AttentionResult<float> after = run_attention<float>(c);
  const auto end = changed * c.shape.out_width();
  CHECK(std::equal(before.out.begin(), before.out.begin() + end, after.out.begin()));
  CHECK(!std::equal(before.out.begin() + end, before.out.end(), after.out.begin() + end));
}

// Kills: exponentials without the running maximum; an underflow that becomes 0/0. Scores are exact here: q·k is an
// integer multiple of 100 up to ±10⁴.
TEST_CASE("scores of ten thousand stay finite and right", "[ops][attention]") {
  AttentionCase c({2, 130, 2, 2, 16, 1.0});
  for (int64_t n = 0; n < c.shape.tokens(); ++n) {
    double* row = c.qkv.data() + n * c.shape.qkv_width();
    for (int64_t x = 0; x < 2 * c.shape.out_width(); ++x) row[x] = 0;
    for (int64_t head = 0; head < 4; ++head)
      row[head * 16] = head < 2 ? 100 : static_cast<double>((n * 37) % 201 - 100);
  }
  const AttentionResult<float> fast = run_attention<float>(c);
  const AttentionResult<double> exact = run_attention<double>(rounded<float>(c));
  check_near(widened(fast.out), exact.out, 1e-6, 1);
  check_near(widened(fast.lse), exact.lse, 1e-6, 1);
  // lse near 10⁴ is held to half an ulp, 2⁻¹¹: that is the relative error of each probability, times |q| or |k| <= 100.
  check_near(widened(fast.dqkv), exact.dqkv, 0x1p-11, 100);
}

// Kills: a maximum or an exponential that turns NaN into a number.
TEST_CASE("NaN in a query, key or value reaches every output that sees it", "[ops][attention]") {
  const int64_t at = 70, time = 140;
  for (int64_t column : {0, 16, 32}) {
    AttentionCase c(shape_of(1, time, 1, 1, 16));
    c.qkv[at * c.shape.qkv_width() + column] = std::nan("");
    const AttentionResult<float> result = run_attention<float>(c);
    const int64_t last_seeing = column == 0 ? at : time - 1;
    for (int64_t i = at; i <= last_seeing; ++i) CHECK(std::isnan(result.out[i * 16]));
    for (int64_t i = 0; i < 64; ++i) CHECK(!std::isnan(result.out[i * 16]));
  }
}
