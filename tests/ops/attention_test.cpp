#include "kernels/ref/attention.h"

#include "support/any_threads.h"
#include "support/catch.h"
#include "support/device_cut.h"
#include "support/few_shapes.h"
#include "support/tolerances.h"

#include "ops/attention_case.h"

#include <algorithm>
#include <cmath>

using namespace sffn;
using namespace sffn::test;

namespace {

AttentionShape shape_of(int64_t batch, int64_t time, int64_t heads, int64_t kv_heads, int64_t head_dim) {
  return {batch, time, heads, kv_heads, head_dim, 1 / std::sqrt(static_cast<double>(head_dim))};
}

Dropout some_dropout(double probability) { return {probability, {{11, 12}, 1003}}; }

// |actual - expected| <= tolerance·(scale + |expected|)
void check_near(const std::vector<double>& actual, const std::vector<double>& expected, double tolerance,
                double scale) {
  check_within(actual, expected, [&](size_t i) { return tolerance * (scale + std::abs(expected[i])); });
}

// Inputs as `dtype` holds them, so that both sides see the same numbers.
AttentionCase rounded(DType dtype, AttentionCase c) {
  c.qkv = HostTensor(dtype, {static_cast<int64_t>(c.qkv.size())}, c.qkv).values();
  c.dout = HostTensor(dtype, {static_cast<int64_t>(c.dout.size())}, c.dout).values();
  return c;
}

// The kernels against ref in double on the same rounded inputs. A score is a sum of d_h products of size about 1/√d_h,
// wrong by about ε·√d_h·|q||k|/d_h <= ε·√d_h; it enters p as a relative error, as do ε·√T of the sums and ε of exp; the
// factor 8 is for the largest of many. bf16: the products are fp32's, but out rounds to 2⁻⁸ and feeds D = Σ dout·out,
// √d_h terms of that size, and so every gradient. Tensor cores take P and dS in bf16: each term of a sum over keys or
// queries is off by up to 2⁻⁸ of itself, at random, where Σ P = 1 and the terms are no larger than what is summed.
void check_against_reference(DType dtype, const AttentionCase& c, int64_t skew = 0) {
  const AttentionResult fast = run_attention(dtype, c, skew);
  const AttentionResult exact = run_attention(DType::kF64, rounded(dtype, c));
  const double eps = 2 * tolerances::unit_roundoff(DType::kF32), kept = 1 / (1 - c.dropout.probability);
  const double size = std::sqrt(static_cast<double>(c.shape.head_dim)) + std::sqrt(static_cast<double>(c.shape.time));
  const double rounding = dtype == DType::kBF16 ? tolerances::unit_roundoff(dtype) : 0;
  const double group = std::sqrt(static_cast<double>(c.shape.heads / c.shape.kv_heads));
  check_near(fast.lse.values(), exact.lse.values(), 8 * eps * size, 1);
  check_near(fast.out.values(), exact.out.values(), 8 * eps * size * kept + rounding, 1);
  check_near(fast.dqkv.values(), exact.dqkv.values(), (32 * eps * size + 4 * rounding) * kept * group, 1);
}

void check_sizes(DType dtype, bool masked, double probability) {
  for (int64_t time : all_or_few({1, 31, 33, 127, 200}, {33})) {
    for (int64_t head_dim : {16, 41, 64, 128}) {
      AttentionCase c(shape_of(2, time, 2, head_dim == 64 ? 1 : 2, head_dim));
      if (masked) c.segment_start = uneven_documents(c.shape, 37);
      if (probability > 0) c.dropout = some_dropout(probability);
      INFO("time " << time << ", head_dim " << head_dim);
      check_against_reference(dtype, c);
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
  check_close(run_attention(DType::kF64, c).dqkv.values(), reference_gradient(c), 1e-12);
}

// Kills: tails of tiles, strips or vectors left out or read beyond; the head read from the wrong columns.
TEST_CASE("attention in f32 and bf16 is the reference at every size", "[ops][attention]") {
  check_sizes(DType::kF32, false, 0);
  check_sizes(DType::kBF16, false, 0);
}

// Kills: skipping a key tile that a few queries see; a dropout index that differs between forward and backward.
TEST_CASE("attention with documents and dropout is the reference at every size", "[ops][attention]") {
  check_sizes(DType::kF32, true, 0.25);
  check_sizes(DType::kBF16, true, 0.25);
}

// Kills: a tile of wide heads that is taken for one of narrow heads; columns beyond the head stored.
TEST_CASE("attention of wide heads is the reference", "[ops][attention]") {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (int64_t head_dim : {129, 168, 256}) {
      AttentionCase c(shape_of(1, 75, 2, head_dim == 256 ? 2 : 1, head_dim));
      check_against_reference(dtype, c);
      c.segment_start = uneven_documents(c.shape, 37);
      c.dropout = some_dropout(0.25);
      INFO("head_dim " << head_dim);
      check_against_reference(dtype, c);
    }
  }
}

// Kills: a tail of a tile of 128 rows, 64 or 32; the key head of another group; a tile of keys left out, or a
// document's rows that saw no key of it yet; Philox blocks of dropout shared by lanes that have others. On devices with
// warpgroups and without.
TEST_CASE("attention in bf16 with heads of 64 and 128 columns is the reference", "[ops][attention]") {
  const ScopedDeviceCut on({.warpgroups = GENERATE(false, true)});
  for (int64_t head_dim : {64, 128}) {
    for (int64_t time : all_or_few({1, 31, 33, 65, 127, 130, 260}, {65})) {
      INFO("time " << time << ", head_dim " << head_dim);
      AttentionCase c(shape_of(1, time, 4, 2, head_dim));
      if (time == 260) c = AttentionCase(shape_of(1, time, 2, 2, head_dim));
      check_against_reference(DType::kBF16, c);
      c.segment_start = uneven_documents(c.shape, time == 260 ? 450 : 100);  // every 150 or 100 tokens
      check_against_reference(DType::kBF16, c);
      c.dropout = some_dropout(0.25);
      check_against_reference(DType::kBF16, c);
    }
    AttentionCase c(shape_of(1, 132, 2, 1, head_dim));
    c.dropout = some_dropout(0.25);
    c.dropout.draws.first_index = 1 << 20;  // with 132, multiples of 4: Philox blocks begin with a tile
    INFO("head_dim " << head_dim);
    check_against_reference(DType::kBF16, c);
  }
}

// Kills: bf16 rows of a width that no tensor-core kernel has, taken for one that it has.
TEST_CASE("bf16 heads of other widths than 64 and 128 are the reference too", "[ops][attention]") {
  for (const int64_t head_dim : {80, 96}) {
    INFO("head_dim " << head_dim);
    check_against_reference(DType::kBF16, AttentionCase(shape_of(1, 70, 2, 1, head_dim)));
  }
}

// Kills: 16 bytes loaded at once from rows that begin elsewhere; the largest score times a scale that is not positive.
TEST_CASE("attention in bf16 is the reference for any scale and any place of qkv", "[ops][attention]") {
  for (double scale : {-0.2, 0.0, 0.3}) {
    AttentionCase c(shape_of(1, 40, 2, 1, 64));
    c.shape.scale = scale;
    INFO("scale " << scale);
    check_against_reference(DType::kBF16, c);
    check_against_reference(DType::kBF16, c, 1);
  }
}

// Kills: dividing by a number of sequences or tokens that is zero.
TEST_CASE("attention of no sequences does nothing", "[ops][attention]") {
  CHECK(run_attention(DType::kF32, AttentionCase(shape_of(0, 64, 2, 2, 16))).out.values().empty());
  CHECK(run_attention(DType::kBF16, AttentionCase(shape_of(0, 64, 2, 2, 16))).out.values().empty());
}

// Kills: work cut by the number of threads; scratch of one call that leaks into the next.
TEST_CASE("attention gives the same bits for any number of threads and any call before", "[ops][attention]") {
  for (AttentionCase c : {AttentionCase(shape_of(3, 150, 4, 2, 41)), AttentionCase(shape_of(1, 150, 2, 1, 64))}) {
    c.segment_start = uneven_documents(c.shape, 29);
    c.dropout = some_dropout(0.1);
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      check_same_on_any_threads([&] {
        run_attention(DType::kF32, AttentionCase(shape_of(2, 200, 2, 2, 128)));
        return run_attention(dtype, c);
      });
    }
  }
}

// Kills: a mask that lets a document see the one before it, or its backward.
TEST_CASE("masked documents are the documents run alone", "[ops][attention]") {
  AttentionCase whole(shape_of(1, 150, 4, 2, 32));
  const std::vector<int64_t> starts = {0, 5, 64, 65, 130, 150};
  for (size_t d = 0; d + 1 < starts.size(); ++d) {
    whole.segment_start.insert(whole.segment_start.end(), starts[d + 1] - starts[d], static_cast<int32_t>(starts[d]));
  }
  const AttentionResult together = run_attention(DType::kF32, whole);
  for (size_t d = 0; d + 1 < starts.size(); ++d) {
    const int64_t first = starts[d], count = starts[d + 1] - starts[d];
    AttentionCase alone(shape_of(1, count, 4, 2, 32));
    alone.qkv = rows(whole.qkv, whole.shape.qkv_width(), first, count);
    alone.dout = rows(whole.dout, whole.shape.out_width(), first, count);
    const AttentionResult result = run_attention(DType::kF32, alone);
    check_near(result.out.values(), rows(together.out.values(), whole.shape.out_width(), first, count), 1e-5, 1);
    check_near(result.dqkv.values(), rows(together.dqkv.values(), whole.shape.qkv_width(), first, count), 1e-5, 1);
  }
}

// Kills: a softmax over masked keys; an lse without the maximum.
TEST_CASE("the first row attends only to itself", "[ops][attention]") {
  const AttentionCase c = rounded(DType::kBF16, AttentionCase(shape_of(2, 33, 2, 1, 16)));
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const std::vector<double> out = run_attention(dtype, c).out.values();
    for (int64_t b = 0; b < 2; ++b) {
      const std::vector<double> value =
          rows(c.qkv, 16, b * 33 * 4 + 3, 1);  // the fourth head of the row: k is the third
      CHECK(rows(out, 16, b * 33 * 2, 1) == value);
      CHECK(rows(out, 16, b * 33 * 2 + 1, 1) == value);
    }
  }
}

// Kills: a sequence that reads its neighbour's keys.
TEST_CASE("permuting sequences permutes outputs and gradients", "[ops][attention]") {
  const auto swapped = [](std::vector<double> x) {
    std::rotate(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(x.size() / 2), x.end());
    return x;
  };
  const AttentionCase c(shape_of(2, 70, 2, 2, 24));
  AttentionCase other = c;
  other.qkv = swapped(c.qkv), other.dout = swapped(c.dout);
  const AttentionResult expected = run_attention(DType::kF32, c), result = run_attention(DType::kF32, other);
  CHECK(swapped(result.out.values()) == expected.out.values());
  CHECK(swapped(result.lse.values()) == expected.lse.values());
  CHECK(swapped(result.dqkv.values()) == expected.dqkv.values());
}

// Kills: a mask that is one key too wide.
TEST_CASE("later tokens change no earlier output", "[ops][attention]") {
  AttentionCase c(shape_of(1, 140, 2, 2, 16));
  const int64_t changed = 77;
  const auto visible_out = [&] {
    return rows(run_attention(DType::kF32, c).out.values(), c.shape.out_width(), 0, changed);
  };
  const std::vector<double> before = visible_out();
  for (size_t x = static_cast<size_t>(changed * c.shape.qkv_width()); x < c.qkv.size(); ++x) c.qkv[x] = -2 * c.qkv[x];
  CHECK(visible_out() == before);
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
  const AttentionResult fast = run_attention(DType::kF32, c);
  const AttentionResult exact = run_attention(DType::kF64, rounded(DType::kF32, c));
  check_near(fast.out.values(), exact.out.values(), 1e-6, 1);
  check_near(fast.lse.values(), exact.lse.values(), 1e-6, 1);
  // lse near 10⁴ is held to half an ulp, 2⁻¹¹: that is the relative error of each probability, times |q| or |k| <= 100.
  check_near(fast.dqkv.values(), exact.dqkv.values(), 0x1p-11, 100);
}

// Kills: a maximum or an exponential that turns NaN into a number.
TEST_CASE("NaN in a query, key or value reaches every output that sees it", "[ops][attention]") {
  const int64_t at = 70, time = 140;
  for (const auto& [dtype, width] : {std::pair(DType::kF32, int64_t{16}), std::pair(DType::kBF16, int64_t{64})}) {
    for (int64_t column : {int64_t{0}, width, 2 * width}) {
      AttentionCase c(shape_of(1, time, 1, 1, width));
      c.qkv[at * c.shape.qkv_width() + column] = std::nan("");
      const std::vector<double> out = run_attention(dtype, c).out.values();
      const int64_t last_seeing = column == 0 ? at : time - 1;
      for (int64_t i = at; i <= last_seeing; ++i) CHECK(std::isnan(out[static_cast<size_t>(i * width)]));
      for (int64_t i = 0; i < 64; ++i) CHECK(!std::isnan(out[static_cast<size_t>(i * width)]));
    }
  }
}
