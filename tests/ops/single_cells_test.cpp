// The ops over sorted rows where a block is one cell: gathers of rows, with paths of their own on a GPU.
#include "support/any_threads.h"
#include "support/few_shapes.h"

#include "block_products.h"

#include <limits>

using namespace sffn;
using namespace sffn::test;

namespace {

// One choice a token: rows[i] tokens of cell i, one cell after the other as long as they have some.
std::vector<int32_t> cells_with_rows(std::vector<int64_t> rows) {
  std::vector<int32_t> cells;
  for (bool any = true; any;) {
    any = false;
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows[i]-- <= 0) continue;
      cells.push_back(static_cast<int32_t>(i));
      any = true;
    }
  }
  return cells;
}

void check_rows(const std::vector<int64_t>& rows, int64_t D, int64_t chunk, DType dtype) {
  const std::vector<int32_t> cells = cells_with_rows(rows);
  check_exact({static_cast<int64_t>(cells.size()), D, static_cast<int64_t>(rows.size()), 1, 1, chunk}, dtype, cells);
}

template <class Value>
HostTensor filled(const HostTensor& like, Value&& value) {
  std::vector<double> values = like.values();
  for (size_t i = 0; i < values.size(); ++i) values[i] = value(static_cast<int64_t>(i));
  return HostTensor(like.dtype(), like.tensor().shape(), values);
}
HostTensor constant(const HostTensor& like, double value) {
  return filled(like, [&](int64_t) { return value; });
}

std::vector<std::byte> bytes_of_results(BlockCase c) {
  c.run();
  std::vector<std::byte> bytes;
  for (const auto& [name, t] : c.results()) bytes.insert(bytes.end(), t->bytes().begin(), t->bytes().end());
  return bytes;
}

// A copy that begins one element behind a place of 16 bytes.
class Shifted {
 public:
  explicit Shifted(const HostTensor& of) : shape_(of.tensor().shape()) {
    std::vector<double> values = of.values();
    values.insert(values.begin(), 77.0);
    memory_ = HostTensor(of.dtype(), {shape_.numel() + 1}, values);
  }
  Tensor tensor() const {
    const int64_t size = shape_.numel();
    const Tensor all = memory_;
    return Tensor(static_cast<std::byte*>(all.raw()) + all.bytes() / static_cast<size_t>(size + 1), shape_, all.dtype(),
                  all.device());
  }
  std::vector<double> values() const {
    const std::vector<double> all = memory_.values();
    CHECK(all[0] == 77.0);
    return {all.begin() + 1, all.end()};
  }

 private:
  Shape shape_;
  HostTensor memory_;
};

}  // namespace

// Kills: columns behind the last pack or strip lost, or taken from the next row; a strip of another row; a dropped
// choice that counts; a row's cell or token taken from a neighbour or from another chunk; a bias added twice or not.
TEST_CASE("products of single cells are exact on integers at every width", "[ops][blocks]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  for (const int64_t D : all_or_few<int64_t>({1, 4, 7, 8, 24, 33, 41, 128, 256, 264, 412, 1032}, {7, 40})) {
    check_exact({60, D, 9, 1, 5, 60}, dtype);
    check_exact({60, D, 9, 1, 5, 17, Choice::kSomeDropped}, dtype);
  }
}

// Kills: a term lost, or taken twice, where a token's choices are not a multiple of those added at once; a cell taken
// for another where 32 sorted rows are of one cell, of 32, or of cells that lie far apart.
TEST_CASE("products of single cells are exact on integers for any number of choices", "[ops][blocks]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  for (const int64_t b : all_or_few<int64_t>({1, 2, 7, 8, 9, 15, 16, 17, 100}, {9})) {
    for (const int64_t N : all_or_few<int64_t>({0, 1, 33}, {33})) {
      check_exact({N, 16, 101, 1, b, 20}, dtype);
      check_exact({N, 9, b, 1, b, 64, Choice::kSomeDropped}, dtype);
    }
  }
  check_exact({20, 8, few_shapes() ? 200 : 5000, 1, 6, 7}, dtype);
  check_exact({40, 8, 3000, 1, 1, 40, Choice::kOneBlock}, dtype);
}

// Kills: a piece of a popular cell lost, added twice or to another cell; a row on both sides of a piece's end or on
// neither; partial sums of cells whose pieces end where they begin; pieces that do not go on in the next chunk.
TEST_CASE("the gradient of a single cell that most tokens choose is exact on integers", "[ops][blocks]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  for (const int64_t D : all_or_few<int64_t>({3, 8}, {3, 8})) {
    for (const int64_t chunk : all_or_few<int64_t>({10000, 700, 100}, {400})) {
      check_rows({5, 1100, 0, 40}, D, chunk, dtype);
      if (few_shapes()) continue;
      check_rows({511, 512, 513, 1, 0}, D, chunk, dtype);
      check_rows({1024, 0, 1025, 1023, 2}, D, chunk, dtype);
      check_rows({0, 0, 5200}, D, chunk, dtype);
    }
  }
  if (!few_shapes()) check_exact({700, 264, 3, 1, 2, 500, Choice::kOneBlock}, dtype);  // several strips
}

// Kills: sums of a dropped choice, or of a row of W that nobody chose: zero times NaN is NaN.
TEST_CASE("single cells that nobody chose and weights of dropped choices are not read", "[ops][blocks]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  for (const int64_t D : {7, 40}) {
    const BlockSizes s{20, D, 6, 1, 11, 13};
    std::vector<int32_t> cells;
    for (int64_t c = 0; c < s.P(); ++c) cells.push_back(static_cast<int32_t>(c % 3 == 0 ? -1 : 2 + c % 2));
    BlockCase c(s, dtype, true, cells), ref = c.as(DType::kF64);
    const auto w = c.w.values(), weights = c.weights.values();
    c.w = filled(c.w, [&](int64_t e) { return e / D == 2 || e / D == 3 ? w[e] : kNan; });
    c.weights = filled(c.weights, [&](int64_t e) { return cells[e] < 0 ? kNan : weights[e]; });
    c.run();
    ref.run();
    CHECK(c.y.values() == ref.y.as(dtype).values());
    CHECK(c.y_plain.values() == ref.y_plain.as(dtype).values());
    CHECK(c.z.values() == ref.z.as(dtype).values());
    CHECK(c.dw.values() == ref.dw.as(DType::kF32).values());
  }
}

// Kills: 16 bytes at a time where a tensor does not begin at 16 bytes.
TEST_CASE("products of single cells are exact on tensors that begin anywhere", "[ops][blocks]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  BlockCase c({20, 16, 5, 1, 3, 20}, dtype, true), ref = c.as(DType::kF64);
  ref.run();
  for (int which = 0; which < 4; ++which) {
    INFO(which);
    const BlockCase given = c;
    const Shifted x(given.x), w(given.w), y(given.y), dw(given.dw), bias(given.out_bias);
    const auto pick = [&](int place, const Shifted& shifted, const HostTensor& plain) {
      return which == place ? shifted.tensor() : plain.tensor();
    };
    Stream stream(cpu_runtime());
    const BlockRouting r = given.routing.tensors();
    ops::block_project(stream, given.z, pick(0, x, given.x), pick(1, w, given.w), given.cell_bias, r);
    ops::block_combine(stream, pick(2, y, given.y), given.h, given.weights, pick(1, w, given.w),
                       pick(3, bias, given.out_bias), r, Accumulate::kYes);
    ops::block_weight_gradient(stream, pick(2, dw, given.dw), given.h, given.weights, pick(0, x, given.x), r);
    CHECK(given.z.values() == ref.z.as(dtype).values());
    CHECK((which == 2 ? y.values() : given.y.values()) == ref.y.as(dtype).values());
    CHECK((which == 2 ? dw.values() : given.dw.values()) == ref.dw.as(DType::kF32).values());
  }
}

// Kills: rows of a cell, or pieces of them, added in another order: 2^24 + 1 is 2^24 in fp32, so that what comes
// between 2^24 and -2^24 is lost, and nothing else.
TEST_CASE("the gradient of a single cell is the sum of its rows in order", "[ops][blocks]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  constexpr int64_t kPiece = 512;  // rows of one on a device
  for (const int64_t D : {5, 8}) {
    for (const int64_t chunk : {5 * kPiece, int64_t{600}}) {
      const BlockSizes s{5 * kPiece, D, 1, 1, 1, chunk};
      const auto gradient = [&](auto&& value) {
        BlockCase c(s, dtype, true);
        c.x = constant(c.x, 1), c.weights = constant(c.weights, 1), c.dw = constant(c.dw, 0);
        c.h = filled(c.h, value);
        c.run();
        return c.dw.values();
      };
      const auto all = [&](double value) { return std::vector<double>(static_cast<size_t>(D), value); };
      // In the first piece: 1 before, 2 between, which are lost, 4 behind.
      CHECK(gradient([](int64_t p) {
              return p == 0 || p == 4 || p == 13 ? 1.0
                     : p == 3                    ? 0x1p24
                     : p == 20                   ? -0x1p24
                     : p > 20 && p < 25          ? 1.0
                                                 : 0.0;
            }) == all(4));
#ifdef SFFN_RUN_OP
      // Of the pieces behind it.
      CHECK(gradient([](int64_t p) {
              const int64_t piece = p / kPiece;
              const double values[] = {0, 0x1p24, 1, -0x1p24, 1};
              return p % kPiece == 7 ? values[piece] : 0.0;
            }) == all(1));
#endif
    }
  }
}

// Kills: partial sums added as blocks of threads end, lanes that go on before others have written.
TEST_CASE("products of single cells have the same bits for any number of threads", "[ops][blocks][threads]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  for (const int64_t D : all_or_few<int64_t>({33, 40}, {33, 40})) {
    const BlockCase spread({200, D, 60, 1, 9, 70, Choice::kSomeDropped}, dtype, false);
    const BlockCase popular({700, D, 3, 1, 2, 500, Choice::kOneBlock}, dtype, false);
    for (const BlockCase* c : {&spread, &popular}) {
      check_same_on_any_threads([&] { return bytes_of_results(*c); });
      CHECK(bytes_of_results(*c) == bytes_of_results(*c));
    }
  }
}
