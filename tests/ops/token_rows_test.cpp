
#include "core/stream.h"
#include "kernels/ops.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/error_of.h"
#include "support/host_tensor.h"

#include <array>
#include <cstring>
#include <vector>

using namespace sffn;
using namespace sffn::test;

namespace {

constexpr DType kF32 = DType::kF32, kF64 = DType::kF64, kBF16 = DType::kBF16, kI32 = DType::kI32;

HostTensor matrix_of(const std::vector<int32_t>& values, int64_t rows, int64_t columns) {
  return HostTensor(kI32, {rows, columns}, std::vector<double>(values.begin(), values.end()));
}

// Numbers of [-1, most), -1 every fifth.
std::vector<int32_t> places(int64_t count, int64_t most) {
  std::vector<int32_t> values;
  for (int64_t i = 0; i < count; ++i) {
    const auto drawn =
        static_cast<int32_t>(random_bits({5, 1}, static_cast<uint64_t>(i)) % static_cast<uint64_t>(most));
    values.push_back(i % 5 == 2 ? -1 : drawn);
  }
  return values;
}

struct Rows {
  HostTensor rows, inverse, bias;
  int64_t N, D;

  Rows(DType dtype, int64_t N, int64_t R, int64_t D, bool has_bias)
      : rows(dtype, {N * R + 1, D}, integer_values(static_cast<size_t>((N * R + 1) * D), 1, 40)),
        inverse(matrix_of(places(N * R, N * R + 1), N, R)),
        N(N),
        D(D) {
    if (has_bias) bias = HostTensor(accumulate_type(dtype), {D}, integer_values(static_cast<size_t>(D), 2, 40));
  }
  std::vector<double> combined() const {
    HostTensor y(rows.dtype(), {N, D}, std::vector<double>(static_cast<size_t>(N * D), 99));
    Stream stream(cpu_runtime());
    ops::combine_tokens(stream, y, rows, inverse, bias);
    return y.values();
  }
};

}  // namespace

// Kills: "<=" at either end of a rank's blocks, a rank of the token before, a dropped choice that counts for rank 0.
TEST_CASE("a token's ranks are those that hold one of its blocks, each once", "[ops][token_rows]") {
  Stream stream(cpu_runtime());
  for (const auto& [N, R, b] : {std::array<int64_t, 3>{0, 2, 3}, {1, 1, 1}, {31, 3, 2}, {33, 8, 5}, {127, 2, 16}}) {
    for (const int64_t C : {1, 3, 64}) {
      const std::vector<int32_t> blocks = places(N * b, R * C);
      HostTensor ranks(kI32, {N, R}, std::vector<double>(static_cast<size_t>(N * R), 77));
      ops::ranks_of_blocks(stream, ranks, matrix_of(blocks, N, b), C);
      std::vector<double> expected(static_cast<size_t>(N * R), -1);
      for (int64_t c = 0; c < N * b; ++c) {
        for (int64_t r = 0; r < R; ++r) {
          const int32_t block = blocks[static_cast<size_t>(c)];
          if (block >= r * C && block < (r + 1) * C)
            expected[static_cast<size_t>(c / b * R + r)] = static_cast<double>(r);
        }
      }
      CHECK(ranks.values() == expected);
    }
  }
}

// Kills: a row of another token, values that pass through another type, a last word that is not moved, stale rows.
TEST_CASE("rows of tokens are gathered bit by bit, whatever their type and width", "[ops][token_rows]") {
  Stream stream(cpu_runtime());
  for (const DType dtype : {kF32, kBF16, kI32}) {
    for (const int64_t C : {1, 2, 3, 8, 31, 33, 64, 127}) {
      for (const auto& [P, N, per_token] : {std::array<int64_t, 3>{0, 4, 2}, {1, 1, 1}, {33, 7, 3}, {127, 40, 8}}) {
        HostTensor x(dtype, {N, C}), out(dtype, {P, C});
        auto* bits = static_cast<unsigned char*>(x.tensor().raw());
        for (size_t i = 0; i < x.tensor().bytes(); ++i) {  // NaN patterns and all
          bits[i] = static_cast<unsigned char>(random_bits({9, 2}, i));
        }
        std::memset(out.tensor().raw(), 0x55, out.tensor().bytes());
        const std::vector<int32_t> order = places(P, N * per_token);
        ops::gather_tokens(stream, out, x, HostTensor::indices(order), per_token);
        const size_t row = static_cast<size_t>(C) * size_of(dtype);
        const std::vector<unsigned char> zeros(row, 0);
        int64_t wrong = 0;
        for (int64_t p = 0; p < P; ++p) {
          const int32_t place = order[static_cast<size_t>(p)];
          const unsigned char* from = place < 0 ? zeros.data() : bits + static_cast<size_t>(place / per_token) * row;
          const auto* to = static_cast<const unsigned char*>(out.tensor().raw()) + static_cast<size_t>(p) * row;
          wrong += std::memcmp(to, from, row) != 0;
        }
        INFO(name_of(dtype) << " [" << P << ", " << C << "]");
        CHECK(wrong == 0);
      }
    }
  }
}

// Kills: a row of -1 that adds, a bias once a row, sums that are rounded on the way, a row that is left as it was.
TEST_CASE("rows that came back are summed for their token, exactly on integers", "[ops][token_rows]") {
  for (const DType dtype : {kF32, kBF16, kF64}) {
    for (const auto& [N, R, D] : {std::array<int64_t, 3>{0, 2, 8}, {1, 1, 1}, {31, 2, 33}, {33, 8, 64}, {7, 3, 127}}) {
      for (const bool has_bias : {false, true}) {
        const Rows problem(dtype, N, R, D, has_bias);
        const std::vector<double> rows = problem.rows.values(), inverse = problem.inverse.values();
        std::vector<double> expected(static_cast<size_t>(N * D));
        for (int64_t e = 0; e < N * D; ++e) {
          double sum = has_bias ? problem.bias.values()[static_cast<size_t>(e % D)] : 0;
          for (int64_t r = 0; r < R; ++r) {
            const double row = inverse[static_cast<size_t>(e / D * R + r)];
            if (row >= 0) sum += rows[static_cast<size_t>(row) * static_cast<size_t>(D) + static_cast<size_t>(e % D)];
          }
          expected[static_cast<size_t>(e)] =
              dtype == kBF16 ? static_cast<float>(bfloat16(static_cast<float>(sum))) : sum;
        }
        INFO(name_of(dtype) << " [" << N << ", " << R << ", " << D << "], bias " << has_bias);
        CHECK(problem.combined() == expected);
      }
    }
  }
}

// Kills: a sum in bf16.
TEST_CASE("rows that came back in bf16 are summed in fp32 and rounded once", "[ops][token_rows]") {
  const HostTensor rows(kBF16, {3, 1}, {256, 1, 1}), inverse = matrix_of({0, 1, 2}, 1, 3);
  HostTensor y(kBF16, {1, 1});
  Stream stream(cpu_runtime());
  ops::combine_tokens(stream, y, rows, inverse, Tensor());
  CHECK(y.values() == std::vector<double>{258});
}

// Kills: a place read outside the rows.
TEST_CASE("rows of tokens refuse places that do not exist", "[ops][token_rows][cpu]") {
  Stream stream(cpu_runtime());
  const HostTensor x(kF32, {2, 3}), y(kF32, {2, 3});
  CHECK(error_of([&] {
          ops::gather_tokens(stream, y, x, HostTensor::indices({0, 4}), 2);
        }).says("gather_tokens: order[1] is 4; expected"));
  CHECK(error_of([&] {
          ops::combine_tokens(stream, y, x, matrix_of({0, 1, 2, -1}, 2, 2), Tensor());
        }).says("combine_tokens: inverse"));
  CHECK(error_of([&] {
          ops::ranks_of_blocks(stream, matrix_of({0, 0}, 1, 2), matrix_of({0, 6}, 1, 2), 3);
        }).says("ranks_of_blocks: "));
}

// Kills: shapes that fit nothing let through.
TEST_CASE("rows of tokens refuse tensors that do not fit", "[ops][token_rows][contract]") {
  Stream stream(cpu_runtime());
  const HostTensor x(kF32, {2, 3}), half(kBF16, {2, 3}), narrow(kF32, {2, 2}), inverse = matrix_of({0, 1}, 2, 1);
  const auto message = [&](auto&& run) { return error_of(run).what; };
  CHECK(message([&] {
          ops::gather_tokens(stream, half, x, HostTensor::indices({0, 1}), 1);
        }) == "gather_tokens: out is bf16 [2, 3] on cpu; expected f32 [2, 3] on cpu");
  CHECK(message([&] {
          ops::gather_tokens(stream, x, x, HostTensor::indices({0, 1}), 0);
        }) == "gather_tokens: per_token is 0; expected at least 1");
  CHECK(message([&] { ops::combine_tokens(stream, x, narrow, inverse, Tensor()); }) ==
        "combine_tokens: rows is f32 [2, 2] on cpu; expected f32 [2, 3] on cpu");
  CHECK(message([&] { ops::ranks_of_blocks(stream, inverse, matrix_of({0}, 1, 1), 1); }) ==
        "ranks_of_blocks: blocks is i32 [1, 1] on cpu; expected i32 [2, 1] on cpu");
}

// Kills: rows cut by the number of threads.
TEST_CASE("rows of tokens are summed to the same bits by any number of threads", "[ops][token_rows]") {
  check_same_on_any_threads([&] { return Rows(kF32, 700, 4, 129, true).combined(); });
}
