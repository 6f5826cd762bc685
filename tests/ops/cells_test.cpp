#include "kernels/ref/cells.h"

#include "support/any_threads.h"
#include "support/catch.h"
#include "support/error_of.h"
#include "support/few_shapes.h"

#include "block_case.h"

using namespace sffn;
using namespace sffn::test;

namespace {

HostTensor drawn(DType dtype, Shape shape, uint64_t stream) {
  return HostTensor(dtype, shape, integer_values(static_cast<size_t>(shape.numel()), stream, 5));
}
HostTensor stale(DType dtype, Shape shape) {
  return HostTensor(dtype, shape, std::vector<double>(static_cast<size_t>(shape.numel()), 77));
}

struct CellsCase {
  HostTensor blocks, order, cells, bias, h, weights, gathered, gathered_biased, scattered, scattered_plain, sorted;

  CellsCase(const BlockSizes& s, DType dtype, DType cells_dtype) {
    const std::vector<int32_t> ids = chosen_blocks(s);
    blocks = HostTensor(DType::kI32, {s.N, s.b}, std::vector<double>(ids.begin(), ids.end()));
    order = HostRouting(s, ids).order;
    cells = drawn(cells_dtype, {s.N, s.M()}, 1), h = drawn(dtype, {s.P(), s.G}, 2);
    weights = drawn(accumulate_type(dtype), {s.N, s.b}, 3);
    bias = drawn(accumulate_type(dtype), {s.M()}, 4);
    gathered_biased = stale(dtype, {s.P(), s.G});
    gathered = stale(dtype, {s.P(), s.G}), sorted = stale(dtype, {s.P(), s.G});
    scattered = stale(dtype, {s.N, s.M()}), scattered_plain = stale(dtype, {s.N, s.M()});
  }
  void run() {
    Stream stream(cpu_runtime());
    ops::gather_cells(stream, gathered, cells, Tensor(), blocks);
    ops::gather_cells(stream, gathered_biased, cells, bias, blocks);
    ops::scatter_cells(stream, scattered, h, weights, blocks);
    ops::scatter_cells(stream, scattered_plain, h, Tensor(), blocks);
    ops::permute_rows(stream, sorted, h, order);
  }
  std::vector<std::vector<double>> results() const {
    return {gathered.values(), gathered_biased.values(), scattered.values(), scattered_plain.values(), sorted.values()};
  }
};

std::vector<BlockSizes> sizes() {
  std::vector<BlockSizes> all = {{0, 1, 3, 4, 2, 8}, {1, 1, 3, 4, 3, 8}};
  for (int64_t G : {1, 3, 16, 33}) all.push_back({31, 1, 5, G, 2, 31, Choice::kSomeDropped});
  if (few_shapes()) return all;
  all.push_back({700, 1, 9, 33, 4, 64});
  for (int64_t G : {32, 33}) all.push_back({3, 1, 300, G, 3, 64, Choice::kSomeDropped});
  all.push_back({2, 1, 3, 5000, 2, 8});
  all.push_back({2, 1, 700, 3, 600, 8});
  return all;
}

}  // namespace

// Kills: a wrong token, block or choice, dropped choices read or written, cells of other blocks left as they were.
TEST_CASE("gathered, scattered and permuted cells are those of the reference", "[ops][cells]") {
  const auto [dtype, cells] = GENERATE(std::pair{DType::kF32, DType::kF32}, std::pair{DType::kBF16, DType::kF32},
                                       std::pair{DType::kBF16, DType::kBF16});
  for (const BlockSizes& s : sizes()) {
    CellsCase low(s, dtype, cells), ref(s, DType::kF64, DType::kF64);
    low.run();
    ref.run();
    INFO(s.str() << " " << name_of(dtype));
    CHECK(low.results() == ref.results());
  }
}

// Kills: a reference that is wrong as the kernels are.
TEST_CASE("gathered cells of tokens in order are the equation's", "[ops][cells]") {
  const std::vector<double> cells = {0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15}, h = {1, 2, 3, 4, 5, 6, 7, 8};
  const std::vector<int32_t> blocks = {0, 2, -1, 1}, order = {3, -1, 0, 1};
  const std::vector<double> weights = {2, 3, 4, 5};
  std::vector<double> out(8, 77), scattered(12, 77), rows(8, 77);
  const std::vector<double> bias = {100, 200, 300, 400, 500, 600};
  ref::gather_cells<double>(out.data(), cells.data(), nullptr, blocks.data(), 2, 2, 2, 6);
  CHECK(out == std::vector<double>{0, 1, 4, 5, 0, 0, 12, 13});
  ref::gather_cells(out.data(), cells.data(), bias.data(), blocks.data(), 2, 2, 2, 6);
  CHECK(out == std::vector<double>{100, 201, 504, 605, 0, 0, 312, 413});
  ref::scatter_cells(scattered.data(), h.data(), weights.data(), blocks.data(), 2, 2, 2, 6);
  CHECK(scattered == std::vector<double>{2, 4, 0, 0, 9, 12, 0, 0, 35, 40, 0, 0});
  ref::permute_rows(rows.data(), h.data(), order.data(), 4, 2);
  CHECK(rows == std::vector<double>{7, 8, 0, 0, 1, 2, 3, 4});
}

// Kills: a second choice of a block that takes the place of the first.
TEST_CASE("cells of a block that a token chooses twice are added", "[ops][cells]") {
  Stream stream(cpu_runtime());
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF64}) {
    const HostTensor cells(dtype, {1, 4}, {9, 9, 9, 9}), h(dtype, {3, 2}, {1, 2, 3, 4, 5, 6});
    const HostTensor blocks(DType::kI32, {1, 3}, {0, 1, 0}), weights(accumulate_type(dtype), {1, 3}, {2, 3, 4});
    ops::scatter_cells(stream, cells, h, weights, blocks);
    CHECK(cells.values() == std::vector<double>{22, 28, 9, 12});
    ops::scatter_cells(stream, cells, h, Tensor(), blocks);
    CHECK(cells.values() == std::vector<double>{6, 8, 3, 4});
  }
}

// Kills: choices of one block that are added in another order.
TEST_CASE("cells of a block that a token chooses often are added in the order of choices", "[ops][cells]") {
  Stream stream(cpu_runtime());
  const HostTensor cells(DType::kF32, {1, 4}), h(DType::kF32, {3, 2}, {0x1p24, 1, 1, 1, 1, 0x1p24});
  const HostTensor blocks(DType::kI32, {1, 3}, {1, 1, 1});
  ops::scatter_cells(stream, cells, h, Tensor(), blocks);
  CHECK(cells.values() == std::vector<double>{0, 0, 0x1p24, 0x1p24 + 2});  // 2²⁴ + 1 is not a float
}

// Kills: reading or writing outside a row.
TEST_CASE("a block or row outside the range is an error that names it", "[ops][cells][cpu]") {
  CellsCase c({3, 1, 4, 2, 2, 8}, DType::kF32, DType::kF32);
  Stream stream(cpu_runtime());
  const HostTensor blocks(DType::kI32, {3, 2}, {0, 1, 2, 3, 0, 4}), order = HostTensor::indices({0, 1, 2, 3, -2, 5});
  CHECK(error_of([&] { ops::gather_cells(stream, c.gathered, c.cells, Tensor(), blocks); }).what ==
        "gather_cells: blocks[2, 1] is 4; expected -1 to 3");
  CHECK(error_of([&] { ops::scatter_cells(stream, c.scattered, c.h, c.weights, blocks); }).what ==
        "scatter_cells: blocks[2, 1] is 4; expected -1 to 3");
  CHECK(error_of([&] { ops::permute_rows(stream, c.sorted, c.h, order); }).what ==
        "permute_rows: order[4] is -2; expected -1 to 5");
}

// Kills: chunks that overlap.
TEST_CASE("gathered and scattered cells have the same bits for any number of threads", "[ops][cells]") {
  check_same_on_any_threads([] {
    CellsCase c({700, 1, 9, 33, 4, 64}, DType::kF32, DType::kF32);
    c.run();
    return c.results();
  });
}
