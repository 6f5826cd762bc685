#include "core/stream.h"
#include "kernels/ops.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/complex_step.h"
#include "support/error_of.h"
#include "support/few_shapes.h"
#include "support/host_tensor.h"

#include <array>
#include <complex>
#include <cstring>
#include <limits>
#include <utility>

using namespace sffn;
using namespace sffn::test;

namespace {

constexpr DType kF32 = DType::kF32, kF64 = DType::kF64, kBF16 = DType::kBF16, kI32 = DType::kI32;
constexpr int32_t kLeast = std::numeric_limits<int32_t>::min(), kMost = std::numeric_limits<int32_t>::max();

// Blocks on both sides of both ends of [first, first + count), those of no block, and the ends of what fits.
std::vector<int32_t> blocks_around(int64_t choices, int64_t first, int64_t count) {
  const auto from = static_cast<int32_t>(first), to = static_cast<int32_t>(first + count);
  const std::array<int32_t, 10> edges{from, -1, to - 1, to, from - 1, from + 1, kMost, kLeast, 0, -2};
  std::vector<int32_t> blocks;
  for (int64_t c = 0; c < choices; ++c) {
    const bool edge = c % 3 != 2;
    blocks.push_back(edge ? edges[static_cast<size_t>(c) % edges.size()] : static_cast<int32_t>(c % (2 * count + 3)));
  }
  return blocks;
}

HostTensor matrix_of(const std::vector<int32_t>& values, int64_t N, int64_t b) {
  return HostTensor(kI32, {N, b}, std::vector<double>(values.begin(), values.end()));
}

// The place of each block in the list of the rank's blocks.
std::vector<double> found_in_list(const std::vector<int32_t>& blocks, int64_t first, int64_t count) {
  std::vector<double> places;
  for (const int32_t block : blocks) {
    double place = -1;
    for (int64_t i = 0; i < count; ++i) {
      if (block == first + i) place = static_cast<double>(i);
    }
    places.push_back(place);
  }
  return places;
}

struct Parts {
  int64_t R, N, D;
  HostTensor parts, bias;

  Parts(DType dtype, int64_t ranks, int64_t rows, int64_t width, bool has_bias)
      : R(ranks), N(rows), D(width), parts(dtype, {R, N, D}, random_values(static_cast<size_t>(R * N * D), 1, 3)) {
    const auto added = random_values(static_cast<size_t>(D), 2, 3);
    if (has_bias) bias = HostTensor(accumulate_type(dtype), {D}, added);
  }
  HostTensor sum() const {
    HostTensor y(parts.dtype(), {N, D}, std::vector<double>(static_cast<size_t>(N * D), 77));
    Stream stream(cpu_runtime());
    ops::sum_parts(stream, y, parts, bias);
    return y;
  }
};

template <class T, class Acc>
std::vector<T> plain_sum(const T* parts, const Acc* bias, int64_t R, int64_t N, int64_t D) {
  std::vector<T> y;
  for (int64_t e = 0; e < N * D; ++e) {
    Acc total{};
    for (int64_t r = 0; r < R; ++r) total = total + Acc(parts[r * N * D + e]);
    if (bias != nullptr) total = total + bias[e % D];
    y.push_back(T(total));
  }
  return y;
}

template <class T, class Acc>
bool is_plain_sum(const Parts& p) {
  const HostTensor y = p.sum();
  const Acc* bias = p.bias.tensor().defined() ? p.bias.tensor().data<Acc>() : nullptr;
  const std::vector<T> expected = plain_sum<T, Acc>(p.parts.tensor().data<T>(), bias, p.R, p.N, p.D);
  return expected.empty() || std::memcmp(y.bytes().data(), expected.data(), expected.size() * sizeof(T)) == 0;
}

// Of one row of one column.
double sum_of(DType dtype, const std::vector<double>& parts, const HostTensor& bias = {}) {
  HostTensor y(dtype, {1, 1});
  Stream stream(cpu_runtime());
  ops::sum_parts(stream, y, HostTensor(dtype, {static_cast<int64_t>(parts.size()), 1, 1}, parts), bias);
  return y.values()[0];
}

constexpr std::pair<int64_t, int64_t> kSizes[] = {  // N, D
    {0, 16},  {1, 1},   {1, 8},    {31, 33}, {33, 31},  {127, 5},  {31, 16},
    {33, 24}, {127, 8}, {33, 127}, {5, 128}, {2, 1032}, {1, 2056}, {3, 515}};

}  // namespace

// Kills: an end of the range one off, blocks of lower ranks that stay negative, blocks that wrap around, a tail left
// out.
TEST_CASE("blocks of a rank are counted from its first, and those of other ranks are none", "[ops][ranks]") {
  Stream stream(cpu_runtime());
  for (const int64_t N : all_or_few<int64_t>({0, 1, 31, 33, 127, 20'001}, {127})) {
    for (const int64_t b : {1, 2, 3, 8}) {
      for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 1}, {0, 5}, {5, 5}, {7, 1}, {64, 16}}) {
        const std::vector<int32_t> blocks = blocks_around(N * b, first, count);
        const std::vector<double> expected = found_in_list(blocks, first, count);
        const HostTensor given = matrix_of(blocks, N, b),
                         out = matrix_of(std::vector<int32_t>(blocks.size(), 77), N, b);
        ops::localise_blocks(stream, out, given, first, count);
        INFO(N << " tokens, " << b << " blocks each, " << count << " from " << first);
        CHECK(out.values() == expected);
        ops::localise_blocks(stream, given, given, first, count);  // in place
        CHECK(given.values() == expected);
      }
    }
  }
  const HostTensor ends(kI32, {1, 4}, {double{kLeast}, double{kMost}, 5, 4});
  ops::localise_blocks(stream, ends, ends, 5, kMost);
  CHECK(ends.values() == std::vector<double>{-1, double{kMost} - 5, 0, -1});
}

// Kills: a rank left out or taken twice, rows or columns of another, a bias by row, stale values left.
TEST_CASE("the sum of parts is that of whole numbers in every dtype, with its bias", "[ops][ranks]") {
  Stream stream(cpu_runtime());
  for (const DType dtype : {kF32, kBF16, kF64, DType::kC128}) {
    for (const auto& [N, D] : kSizes) {
      for (const int64_t R : {1, 2, 3, 8}) {
        const auto values = integer_values(static_cast<size_t>(R * N * D), 3, 14),
                   added = integer_values(static_cast<size_t>(D), 4, 14);
        for (const bool has_bias : {false, true}) {
          std::vector<double> expected(static_cast<size_t>(N * D));
          for (size_t e = 0; e < expected.size(); ++e) {
            if (has_bias) expected[e] = added[e % static_cast<size_t>(D)];
            for (size_t r = 0; r < static_cast<size_t>(R); ++r) expected[e] += values[r * expected.size() + e];
          }
          const HostTensor y(dtype, {N, D}, std::vector<double>(expected.size(), 77));
          ops::sum_parts(stream, y, HostTensor(dtype, {R, N, D}, values),
                         has_bias ? HostTensor(accumulate_type(dtype), {D}, added) : HostTensor());
          INFO(R << " parts of " << N << " rows of " << D << (has_bias ? ", a bias" : ""));
          std::vector<double> found = y.values();
          found.resize(expected.size());
          CHECK(found == expected);
        }
      }
    }
  }
}

// Kills: bf16 sums that are rounded on the way, a bias rounded to bf16, sums in pairs or from the last rank, packs of
// the wrong length.
TEST_CASE("parts are summed in fp32 in the order of the ranks and rounded once", "[ops][ranks]") {
  for (const auto& [N, D] : kSizes) {
    for (int64_t R = 1; R <= 8; ++R) {
      for (const bool has_bias : {false, true}) {
        INFO(R << " parts of " << N << " rows of " << D << (has_bias ? ", a bias" : ""));
        CHECK(is_plain_sum<float, float>(Parts(kF32, R, N, D, has_bias)));
        CHECK(is_plain_sum<bfloat16, float>(Parts(kBF16, R, N, D, has_bias)));
        CHECK(is_plain_sum<double, double>(Parts(kF64, R, N, D, has_bias)));
      }
    }
  }
  CHECK(sum_of(kBF16, {256, 1, -256}) == 1);
  CHECK(sum_of(kF32, {0x1p24, 1, -0x1p24}) == 0);
  CHECK(sum_of(kF32, {1, 0x1p24, -0x1p24, 1}) == 1);
  CHECK(sum_of(kBF16, {1, -256, 256}, HostTensor(kF32, {1}, {0x1p-9})) == 1);
  CHECK(sum_of(kBF16, {256, -256}, HostTensor(kF32, {1}, {1 + 0x1p-8 + 0x1p-20})) == 1 + 0x1p-7);
  CHECK(sum_of(kF32, {1, -0x1p24}, HostTensor(kF32, {1}, {0x1p24})) == 1);
}

// Kills: packs where memory is not aligned for them.
TEST_CASE("parts and sums that begin anywhere in memory give the same bits", "[ops][ranks]") {
  Stream stream(cpu_runtime());
  for (const DType dtype : {kF32, kBF16}) {
    const Parts p(dtype, 3, 5, 16, true);
    const HostTensor y = p.sum(), shifted_parts(dtype, {p.R * p.N * p.D + 1}), shifted_y(dtype, {p.N * p.D + 1});
    const size_t bytes = static_cast<size_t>(p.N * p.D) * size_of(dtype);
    const auto after_one = [&](const HostTensor& t, Shape shape) {
      return Tensor(static_cast<std::byte*>(t.tensor().raw()) + size_of(dtype), shape, dtype, Device::cpu());
    };
    const Tensor parts = after_one(shifted_parts, {p.R, p.N, p.D}), sum = after_one(shifted_y, {p.N, p.D});
    std::memcpy(parts.raw(), p.parts.tensor().raw(), static_cast<size_t>(p.R) * bytes);
    ops::sum_parts(stream, sum, p.parts, p.bias);
    CHECK(std::memcmp(sum.raw(), y.tensor().raw(), bytes) == 0);
    const HostTensor again(dtype, {p.N, p.D});
    ops::sum_parts(stream, again, parts, p.bias);
    CHECK(std::memcmp(again.tensor().raw(), y.tensor().raw(), bytes) == 0);
  }
}

// Kills: real parts alone.
TEST_CASE("the sum of complex parts is complex", "[ops][ranks]") {
  constexpr int64_t R = 3, N = 4, D = 5;
  const auto fill = [](std::vector<Complex>& x, uint64_t stream) {
    const auto values = random_values(2 * x.size(), stream);
    for (size_t i = 0; i < x.size(); ++i) x[i] = {values[2 * i], values[2 * i + 1]};
  };
  std::vector<Complex> parts(R * N * D), bias(D), y(N * D);
  fill(parts, 1), fill(bias, 2);
  const auto tensor = [](std::vector<Complex>& x, Shape shape) {
    return Tensor(x.data(), shape, DType::kC128, Device::cpu());
  };
  Stream stream(cpu_runtime());
  ops::sum_parts(stream, tensor(y, {N, D}), tensor(parts, {R, N, D}), tensor(bias, {D}));
  CHECK(y == plain_sum<Complex, Complex>(parts.data(), bias.data(), R, N, D));
  ops::sum_parts(stream, tensor(y, {N, D}), tensor(parts, {R, N, D}), Tensor());
  CHECK(y == plain_sum<Complex, Complex>(parts.data(), nullptr, R, N, D));
}

// Kills: work cut by the number of threads, ranks that are added by whoever comes first.
TEST_CASE("blocks and sums over ranks give the same bits for any number of threads", "[ops][ranks]") {
  const std::vector<int32_t> blocks = blocks_around(60'003, 5, 7);
  const Parts f32(kF32, 7, 601, 127, true), bf16(kBF16, 8, 301, 264, true);
  check_same_on_any_threads([&] {
    const HostTensor out(kI32, {20'001, 3});
    Stream stream(cpu_runtime());
    ops::localise_blocks(stream, out, matrix_of(blocks, 20'001, 3), 5, 7);
    return std::pair(out.bytes(), std::pair(f32.sum().bytes(), bf16.sum().bytes()));
  });
}

// Kills: a check forgotten for one argument: each case breaks exactly one.
TEST_CASE("ops over ranks refuse tensors and numbers that do not fit", "[ops][ranks][contract]") {
  Stream s(cpu_runtime());
  const auto message = [](auto&& run) { return error_of(run).what; };
  const HostTensor blocks(kI32, {3, 2}), fewer(kI32, {2, 2}), flat(kI32, {6}), scores(kF32, {3, 2});
  const auto localise = [&](const Tensor& out, const Tensor& in, int64_t first, int64_t count) {
    return message([&] { ops::localise_blocks(s, out, in, first, count); });
  };
  CHECK(localise(blocks, blocks, 0, 1).empty());
  CHECK(localise(blocks, Tensor(), 0, 1) == "localise_blocks: blocks is absent; expected a tensor on cpu");
  CHECK(localise(flat, flat, 0, 1) == "localise_blocks: blocks is i32 [6] on cpu; expected two dimensions");
  CHECK(localise(scores, scores, 0, 1) == "localise_blocks: blocks is f32 [3, 2] on cpu; expected i32 [3, 2] on cpu");
  CHECK(localise(fewer, blocks, 0, 1) == "localise_blocks: out is i32 [2, 2] on cpu; expected i32 [3, 2] on cpu");
  CHECK(localise(scores, blocks, 0, 1) == "localise_blocks: out is f32 [3, 2] on cpu; expected i32 [3, 2] on cpu");
  CHECK(localise(blocks, blocks, -1, 4) == "localise_blocks: blocks from -1, 4 of them; expected at least 1 from 0 on");
  CHECK(localise(blocks, blocks, 4, 0) == "localise_blocks: blocks from 4, 0 of them; expected at least 1 from 0 on");

  const HostTensor y(kBF16, {4, 6}), parts(kBF16, {2, 4, 6}), bias(kF32, {6});
  const auto sum = [&](const Tensor& out, const Tensor& in, const Tensor& added) {
    return message([&] { ops::sum_parts(s, out, in, added); });
  };
  CHECK(sum(y, parts, bias).empty());
  CHECK(sum(y, parts, Tensor()).empty());
  CHECK(sum(flat, parts, bias) == "sum_parts: y is i32 [6] on cpu; expected a floating dtype on cpu");
  CHECK(sum(bias, parts, bias) == "sum_parts: y is f32 [6] on cpu; expected two dimensions");
  CHECK(sum(y, Tensor(), bias) == "sum_parts: parts is absent; expected a tensor on cpu");
  CHECK(sum(y, y, bias) == "sum_parts: parts is bf16 [4, 6] on cpu; expected [R, N, D] of at least one part");
  CHECK(sum(y, HostTensor(kBF16, {0, 4, 6}), bias) ==
        "sum_parts: parts is bf16 [0, 4, 6] on cpu; expected [R, N, D] of at least one part");
  CHECK(sum(y, HostTensor(kF32, {2, 4, 6}), bias) ==
        "sum_parts: parts is f32 [2, 4, 6] on cpu; expected bf16 [2, 4, 6] on cpu");
  CHECK(sum(y, HostTensor(kBF16, {2, 5, 6}), bias) ==
        "sum_parts: parts is bf16 [2, 5, 6] on cpu; expected bf16 [2, 4, 6] on cpu");
  CHECK(sum(y, parts, HostTensor(kF32, {4})) == "sum_parts: bias is f32 [4] on cpu; expected f32 [6] on cpu");
  CHECK(sum(y, parts, HostTensor(kBF16, {6})) == "sum_parts: bias is bf16 [6] on cpu; expected f32 [6] on cpu");
}
