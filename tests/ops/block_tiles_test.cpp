// The ops over sorted rows where work is cut into tiles, segments, strips and pieces: sizes at the edges of them.
#include "support/any_threads.h"
#include "support/device_cut.h"
#include "support/few_shapes.h"

#include "block_products.h"

using namespace sffn;
using namespace sffn::test;

namespace {

// One choice a token: rows[i] tokens of block i, spread through all tokens.
std::vector<int32_t> blocks_with_rows(std::vector<int64_t> rows) {
  std::vector<int32_t> blocks;
  for (bool any = true; any;) {
    any = false;
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows[i]-- <= 0) continue;
      blocks.push_back(static_cast<int32_t>(i));
      any = true;
    }
  }
  return blocks;
}

void check_rows(const std::vector<int64_t>& rows, int64_t D, int64_t G, int64_t chunk) {
  const std::vector<int32_t> blocks = blocks_with_rows(rows);
  check_exact({static_cast<int64_t>(blocks.size()), D, static_cast<int64_t>(rows.size()), G, 1, chunk}, DType::kBF16,
              blocks);
}

}  // namespace

// Kills: rows of the next block in the last tile, a lost last row, a tile for an empty block, a list one tile short.
TEST_CASE("blocks with as many rows as a tile, one more and one less are exact on integers", "[ops][blocks]") {
  const ScopedDeviceCut on({.warpgroups = GENERATE(false, true)});
  check_rows({129, 0, 1, 127, 128}, 24, 16, 1000);
  check_rows({64, 65, 63, 0, 0, 257}, 8, 32, 1000);
  check_rows({33, 1, 31, 32}, 16, 128, 50);  // chunks that end within tiles
  check_rows({0, 0, 130}, 8, 16, 1000);
}

// Kills: cells or columns of a partial tile lost or taken from a neighbour; a step along the depth that is not cleared.
TEST_CASE("block products of every width of tile are exact on integers", "[ops][blocks]") {
  const ScopedDeviceCut on({.warpgroups = GENERATE(false, true)});
  for (const int64_t G : all_or_few({16, 24, 32, 40, 64, 72, 96, 128, 192, 256}, {16, 40, 64, 256})) {
    check_exact({20, 136, 3, G, 2, 20, Choice::kSomeDropped}, DType::kBF16);
  }
  for (const int64_t G : all_or_few({16, 48, 128}, {48})) check_exact({9, 392, 2, G, 1, 9}, DType::kBF16);
  check_exact({70, 264, 2, 33, 1, 70}, DType::kBF16);  // rows of z that are not whole 16 bytes
}

// Kills: a result for a block without rows; unused rows left as they were.
TEST_CASE("block products of choices that are all dropped are their biases and zero", "[ops][blocks]") {
  for (const int64_t G : {16, 64}) {
    check_exact({10, 24, 3, G, 2, 10}, DType::kBF16, std::vector<int32_t>(20, -1));
    check_exact({10, 264, 3, G, 1, 10}, DType::kBF16, std::vector<int32_t>(10, -1));
  }
}

// Kills: y of a token left as it was, or taken from another one, where products are y.
TEST_CASE("tokens with one choice have its product, and zero where it is dropped", "[ops][blocks]") {
  const ScopedDeviceCut on({.product_bytes = 1, .warpgroups = GENERATE(false, true)});
  for (const int64_t G : all_or_few({16, 64}, {16}))
    check_exact({150, 264, 4, G, 1, 60, Choice::kSomeDropped}, DType::kBF16);
}

// Kills: tokens or columns on both sides of a cut, or on neither; the products of one cut added to those of another; a
// list of tiles that is too short for a segment.
TEST_CASE("block products that are cut into segments of tokens and strips of columns are exact", "[ops][blocks]") {
  const ScopedDeviceCut small({.cached_bytes = 1, .product_bytes = 40000, .warpgroups = GENERATE(false, true)});
  check_exact({70, 272, 5, 16, 3, 70, Choice::kSomeDropped}, DType::kBF16);
  check_exact({150, 24, 4, 32, 2, 60}, DType::kBF16);  // segments of parts of several chunks
  check_exact({90, 136, 3, 16, 3, 16}, DType::kBF16);  // of several chunks
  check_exact({1300, 8, 2, 16, 2, 1300, Choice::kSomeDropped}, DType::kBF16);
  check_exact({70, 272, 5, 64, 3, 70, Choice::kSomeDropped}, DType::kBF16);
}

// Kills: a piece of a popular block lost, added twice or to another block's cells.
TEST_CASE("the gradient of a block that most tokens choose is exact on integers", "[ops][blocks]") {
  check_rows({5, 3300, 0, 40, 1100, 3, 2, 1}, 8, 16, 5000);
  check_rows({5, 1200, 30, 2100}, 8, 24, 1000);  // pieces of several chunks
  std::vector<int64_t> rows(2100);               // more blocks than blocks of threads that add pieces
  rows[3] = 1030, rows[2097] = 1100, rows[2099] = 2;
  check_rows(rows, 8, 16, 5000);
}

// Kills: the terms of a token added in another order: 2^24 + 1 is 2^24 in fp32, so that what comes between 2^24 and
// -2^24 is lost, and nothing else.
TEST_CASE("the products of a token are added in the order of its choices", "[ops][blocks]") {
  const DType dtype = GENERATE(DType::kF32, DType::kBF16);
  for (const int64_t G : {1, 8, 16, 64}) {
    const BlockSizes s{3, 24, 11, G, 11, 3};
    BlockCase c(s, dtype, true);
    const auto filled = [](const HostTensor& like, auto&& value) {
      std::vector<double> values = like.values();
      for (size_t i = 0; i < values.size(); ++i) values[i] = value(static_cast<int64_t>(i));
      return HostTensor(like.dtype(), like.tensor().shape(), values);
    };
    c.w = filled(c.w, [](int64_t) { return 1.0; });
    c.h = filled(c.h, [&](int64_t i) { return i % G == 0 ? 1.0 : 0.0; });
    c.weights = filled(c.weights, [&](int64_t i) { return i % s.b == 0 ? 0x1p24 : i % s.b == 9 ? -0x1p24 : 1.0; });
    c.y = filled(c.y, [](int64_t) { return 0.0; });
    c.out_bias = filled(c.out_bias, [](int64_t) { return 0.0; });
    c.run();
    INFO("G " << G << " " << name_of(dtype));
    CHECK(c.y.values() == std::vector<double>(static_cast<size_t>(s.N * s.D), 1.0));
  }
}

// Kills: partial sums added as blocks of threads end; sums that depend on where segments and strips are cut.
TEST_CASE("block products have the same bits however they are cut and scheduled", "[ops][blocks][threads]") {
  const auto run = [&](const BlockSizes& sizes, const DeviceCut& cut) {
    const ScopedDeviceCut scoped(cut);
    BlockCase c(sizes, DType::kBF16, false);
    c.run();
    std::vector<std::byte> bytes;
    for (const auto& [name, t] : c.results()) bytes.insert(bytes.end(), t->bytes().begin(), t->bytes().end());
    return bytes;
  };
  for (const int64_t G : all_or_few({32, 64}, {32})) {
    const BlockSizes s{300, 136, 6, G, 3, 120, Choice::kSomeDropped};
    CHECK(run(s, {}) == run(s, {.cached_bytes = 1, .product_bytes = 30000}));
  }
  check_same_on_any_threads([&] { return run({2500, 8, 4, 16, 1, 2500, Choice::kOneBlock}, {}); });
}
