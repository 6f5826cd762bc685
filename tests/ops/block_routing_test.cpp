#include "kernels/ref/block_routing.h"

#include "kernels/ops.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/error_of.h"
#include "support/few_shapes.h"
#include "support/host_tensor.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

using namespace sffn;
using namespace sffn::test;

namespace {

// Choices of N tokens, b of B blocks each: ids drawn with a bias to low ones, ascending or not; some dropped.
std::vector<int32_t> drawn_choices(int64_t N, int64_t b, int64_t B, bool with_drops) {
  std::vector<int32_t> ids(static_cast<size_t>(N * b));
  for (size_t c = 0; c < ids.size(); ++c) {
    const auto range = static_cast<uint32_t>(B);
    ids[c] = static_cast<int32_t>(std::min(random_bits({1, 1}, c) % range, random_bits({1, 2}, c) % range));
    if (with_drops && random_bits({1, 3}, c) % 5 == 0) ids[c] = -1;
  }
  return ids;
}

Tensor ints(std::vector<int32_t>& values, Shape shape) {
  return Tensor(values.data(), shape, DType::kI32, Device::cpu());
}

// The chain from choices to their order: count, scan, sort. Every output begins as 7.
struct Routed {
  int64_t N, b, B, chunks;
  std::vector<int32_t> blocks, counts, offsets, order, inverse;

  Routed(std::vector<int32_t> choices, int64_t N, int64_t b, int64_t B, int64_t chunks)
      : N(N), b(b), B(B), chunks(chunks), blocks(std::move(choices)) {
    counts.assign(static_cast<size_t>(chunks * B), 7);
    offsets.assign(static_cast<size_t>(chunks * B + 1), 7);
    order.assign(static_cast<size_t>(N * b), 7);
    inverse = order;
  }
  void count_and_scan() {
    Stream stream(cpu_runtime());
    ops::count_blocks(stream, ints(counts, {chunks, B}), ints(blocks, {N, b}));
    ops::exclusive_scan(stream, ints(offsets, {chunks * B + 1}), ints(counts, {chunks * B}));
  }
  void sort() {
    Stream stream(cpu_runtime());
    const BlockRouting routing{
        ints(order, {N * b}), ints(inverse, {N * b}), ints(offsets, {chunks * B + 1}), B, b, N / chunks};
    ops::sort_by_block(stream, routing, ints(blocks, {N, b}));
  }
  void run() {
    count_and_scan();
    sort();
  }
  void run_plain() {
    ref::count_blocks(counts.data(), blocks.data(), chunks, B, N, b);
    ref::exclusive_scan(offsets.data(), counts.data(), chunks * B);
    ref::sort_by_block(order.data(), inverse.data(), blocks.data(), N / chunks, N, b);
  }
  bool operator==(const Routed&) const = default;
};

struct CapacitySizes {
  int64_t N, b, B, groups, capacity;
};

// The choices that a capacity leaves, which are those that the plain loop leaves.
std::vector<int32_t> check_limited(const CapacitySizes& s) {
  std::vector<int32_t> blocks = drawn_choices(s.N, s.b, s.B, true), plain = blocks;
  auto taken = drawn_choices(s.groups, s.B, 3, false);
  const int64_t late = ref::limit_capacity(plain.data(), taken.data(), s.groups, s.B, s.N, s.b, s.capacity);
  HostTensor dropped(DType::kF64, {1}, {0});
  Stream stream(cpu_runtime());
  ops::limit_capacity(stream, ints(blocks, {s.N, s.b}), dropped, ints(taken, {s.groups, s.B}), s.groups, s.B,
                      s.capacity);
  INFO("N = " << s.N << ", B = " << s.B << ", groups = " << s.groups);
  CHECK(blocks == plain);
  CHECK(dropped.values()[0] == static_cast<double>(late));
  return blocks;
}

}  // namespace

// Kills: counts of the wrong group, dropped choices counted, rows not in the order of tokens, an inverse that is not.
TEST_CASE("choices are counted, scanned and sorted as in a small case by hand", "[ops][routing]") {
  Routed r({2, 0, 2, 1, -1, 2, 0, 2}, 4, 2, 3, 2);
  r.run();
  CHECK(r.counts == std::vector<int32_t>{1, 1, 2, 1, 0, 2});
  CHECK(r.offsets == std::vector<int32_t>{0, 1, 2, 4, 5, 5, 7});
  CHECK(r.order == std::vector<int32_t>{1, 3, 0, 2, 6, 5, 7, -1});
  CHECK(r.inverse == std::vector<int32_t>{2, 0, 3, 1, -1, 5, 4, 6});
}

// Kills: a tile border off by one, counts of a tile given to the next, a short last tile, chunks mixed.
TEST_CASE("counting and sorting agree with the plain loops at every size", "[ops][routing]") {
  const bool with_drops = GENERATE(false, true);
  const auto sizes = all_or_few<std::array<int64_t, 4>>({{1, 1, 1, 1},
                                                         {31, 1, 33, 1},
                                                         {33, 3, 31, 3},
                                                         {128, 127, 127, 4},
                                                         {4096, 16, 256, 1},
                                                         {30'000, 5, 7, 3},
                                                         {999, 200, 300, 9},
                                                         {40'000, 5, 20'000, 1}},
                                                        {{31, 1, 33, 1}, {128, 127, 127, 4}, {300, 5, 2000, 1}});
  for (const auto& [N, b, B, chunks] : sizes) {
    INFO("N = " << N << ", b = " << b << ", B = " << B << ", chunks = " << chunks);
    Routed fast(drawn_choices(N, b, B, with_drops), N, b, B, chunks), plain = fast;
    fast.run();
    plain.run_plain();
    REQUIRE(fast.counts == plain.counts);
    REQUIRE(fast.offsets == plain.offsets);
    REQUIRE(fast.order == plain.order);
    REQUIRE(fast.inverse == plain.inverse);
  }
}

// Kills: groups whose last one is short (a chunk that does not divide the tokens), taken for a whole one.
TEST_CASE("the last chunk of a routing may be short", "[ops][routing]") {
  const int64_t N = 10, b = 2, B = 3, chunk = 4;
  auto blocks = drawn_choices(N, b, B, true);
  std::vector<int32_t> counts(3 * B), offsets(3 * B + 1), order(N * b), inverse(N * b), rows(N * b), places(N * b);
  Stream stream(cpu_runtime());
  const Tensor choices = ints(blocks, {N, b}), counted = ints(counts, {3, B});
  ops::count_blocks(stream, counted.slice(0, 2), choices.slice(0, 8));
  ops::count_blocks(stream, counted.slice(2, 1), choices.slice(8, 2));
  ops::exclusive_scan(stream, ints(offsets, {3 * B + 1}), counted);
  ops::sort_by_block(
      stream, BlockRouting{ints(order, {N * b}), ints(inverse, {N * b}), ints(offsets, {3 * B + 1}), B, b, chunk},
      choices);
  ref::sort_by_block(rows.data(), places.data(), blocks.data(), chunk, N, b);
  CHECK(order == rows);
  CHECK(inverse == places);
}

// Kills: reading offsets or a tile that are not there.
TEST_CASE("no tokens have no choices to count or sort", "[ops][routing]") {
  std::vector<int32_t> none, counts = {7, 7, 7}, offsets = {7};
  Stream stream(cpu_runtime());
  ops::count_blocks(stream, ints(counts, {1, 3}), ints(none, {0, 2}));
  CHECK(counts == std::vector<int32_t>{0, 0, 0});
  ops::exclusive_scan(stream, ints(offsets, {1}), ints(none, {0}));
  CHECK(offsets == std::vector<int32_t>{0});
  ops::sort_by_block(stream, BlockRouting{ints(none, {0}), ints(none, {0}), ints(offsets, {1}), 3, 2, 1},
                     ints(none, {0, 2}));
}

// Kills: cursors that threads share, rows in the order of arrival.
TEST_CASE("counting and sorting give the same bits for any number of threads", "[ops][routing]") {
  check_same_on_any_threads([] {
    Routed r(drawn_choices(50'000, 6, 64, true), 50'000, 6, 64, 2);
    r.run();
    return std::vector{r.counts, r.offsets, r.order, r.inverse};
  });
}

// Kills: overwriting the total, losing a group, sums in i32.
TEST_CASE("counts of all groups are added to the totals in double", "[ops][routing]") {
  std::vector<int32_t> counts = {2'000'000'000, 1, 2'000'000'000, 3};
  HostTensor total(DType::kF64, {2}, {0.5, 10});
  Stream stream(cpu_runtime());
  ops::accumulate_counts(stream, total, ints(counts, {2, 2}));
  const auto sums = total.values();
  CHECK(sums[0] == 4e9 + 0.5);
  CHECK(sums[1] == 14);
}

// Kills: a column or a group left out where there are many.
TEST_CASE("counts of many groups and blocks are all added to the totals", "[ops][routing]") {
  for (const auto& [S, B] : std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {31, 33}, {33, 31}, {127, 100}}) {
    std::vector<int32_t> counts(static_cast<size_t>(S * B));
    std::vector<double> expected(static_cast<size_t>(B), 3);
    for (size_t c = 0; c < counts.size(); ++c) {
      counts[c] = static_cast<int32_t>(random_bits({1, 4}, c) % 1000);
      expected[c % expected.size()] += counts[c];
    }
    HostTensor total(DType::kF64, {B}, std::vector<double>(static_cast<size_t>(B), 3));
    Stream stream(cpu_runtime());
    ops::accumulate_counts(stream, total, ints(counts, {S, B}));
    CHECK(total.values() == expected);
  }
}

// Kills: the sum before a piece of the counts lost, or an offset at the border of two.
TEST_CASE("offsets are sums of all counts before them, for any number of counts", "[ops][routing]") {
  for (const int64_t n : {1, 31, 33, 4095, 4096, 4097, 16'383, 16'384, 16'385, 70'000}) {
    std::vector<int32_t> counts(static_cast<size_t>(n)), offsets(static_cast<size_t>(n + 1), 7), expected(offsets);
    for (size_t i = 0; i < counts.size(); ++i) counts[i] = static_cast<int32_t>(random_bits({1, 5}, i) % 100);
    ref::exclusive_scan(expected.data(), counts.data(), n);
    Stream stream(cpu_runtime());
    ops::exclusive_scan(stream, ints(offsets, {n + 1}), ints(counts, {n}));
    CHECK(offsets == expected);
  }
}

// Kills: later choices kept and earlier ones dropped, a capacity of all groups together, a dropped choice that takes a
// place, a count that overwrites.
TEST_CASE("a block keeps the first choices of each group up to its capacity", "[ops][routing]") {
  Stream stream(cpu_runtime());
  HostTensor dropped(DType::kF64, {1}, {10});
  std::vector<int32_t> blocks = {0, 1, -1, 1, 0, 1, 1, 0, 1, 1, 0, 1}, taken = {0, 1, 2, 0};
  ops::limit_capacity(stream, ints(blocks, {6, 2}), dropped, Tensor(), 2, 2, 2);
  CHECK(blocks == std::vector<int32_t>{0, 1, -1, 1, 0, -1, 1, 0, 1, -1, 0, -1});
  CHECK(dropped.values()[0] == 13);
  blocks = {0, 1, -1, 1, 0, 1, 1, 0, 1, 1, 0, 1};
  ops::limit_capacity(stream, ints(blocks, {6, 2}), Tensor(), ints(taken, {2, 2}), 2, 2, 2);
  CHECK(blocks == std::vector<int32_t>{0, 1, -1, -1, 0, -1, 1, -1, 1, -1, -1, -1});
  ops::limit_capacity(stream, ints(blocks, {6, 2}), dropped, Tensor(), 1, 2, 0);
  CHECK(blocks == std::vector<int32_t>(12, -1));
  CHECK(dropped.values()[0] == 18);
}

// Kills: places of a tile that are counted from 0, groups that share their places.
TEST_CASE("a capacity drops what the plain loop drops", "[ops][routing]") {
  for (const CapacitySizes& sizes : all_or_few<CapacitySizes>({{1, 1, 1, 1, 0},
                                                               {31, 1, 33, 1, 1},
                                                               {33, 3, 31, 3, 2},
                                                               {127, 2, 7, 1, 20},
                                                               {60'000, 3, 16, 2, 4000},
                                                               {20'000, 2, 2000, 2, 7}},
                                                              {{33, 3, 31, 3, 2}, {400, 2, 2000, 2, 1}})) {
    check_limited(sizes);
  }
}

// Kills: places that depend on which tile is counted first.
TEST_CASE("a capacity drops the same choices on any number of threads", "[ops][routing]") {
  for (const CapacitySizes& sizes : {CapacitySizes{60'000, 3, 16, 2, 4000}, {20'000, 2, 2000, 2, 7}}) {
    check_same_on_any_threads([&] { return check_limited(sizes); });
  }
}

// Kills: an id that writes outside, an error without its place.
TEST_CASE("an id that is no block is an error that names the choice", "[ops][routing][cpu]") {
  for (const int32_t bad : {3, -2}) {
    Routed r({2, 0, 2, 1, 0, bad, -1, 5}, 4, 2, 3, 1);
    CHECK(error_of([&] {
            Stream stream(cpu_runtime());
            auto blocks = r.blocks;
            ops::limit_capacity(stream, ints(blocks, {4, 2}), Tensor(), Tensor(), 1, 3, 1);
          }).says("limit_capacity: blocks[2, 1] is "));
    const std::string where = cat("blocks[2, 1] is ", bad, "; expected -1 to 2");
    CHECK(error_of([&] { r.count_and_scan(); }).what == "count_blocks: " + where);
    r.offsets = {0, 1, 2, 4};
    CHECK(error_of([&] { r.sort(); }).what == "sort_by_block: " + where);
  }
}

// Kills: writing rows where the offsets of other choices say.
TEST_CASE("offsets of other choices are an error, not a wild write", "[ops][routing][cpu]") {
  Routed r({2, 0, 2, 1, 0, 1, -1, 2}, 4, 2, 3, 1);
  r.run();
  for (size_t i = 0; i < r.offsets.size(); ++i) {
    Routed wrong = r;
    ++wrong.offsets[i];
    CHECK(error_of([&] { wrong.sort(); }).says("routing.offsets are not those of blocks"));
  }
}

// Kills: offsets that wrap around.
TEST_CASE("counts that add up beyond i32 are an error", "[ops][routing][cpu]") {
  std::vector<int32_t> counts = {2'000'000'000, 2'000'000'000}, offsets(3);
  Stream stream(cpu_runtime());
  CHECK(error_of([&] { ops::exclusive_scan(stream, ints(offsets, {3}), ints(counts, {2})); }).says("2^31"));
}

// Kills: a check forgotten for one argument: each case breaks exactly one.
TEST_CASE("the routing ops refuse tensors that do not fit", "[ops][routing][contract]") {
  Stream s(cpu_runtime());
  const auto ids = [](Shape shape) { return Tensor(nullptr, shape, DType::kI32, Device::cpu()); };
  const auto real = [](Shape shape, DType dtype = DType::kF32) { return Tensor(nullptr, shape, dtype, Device::cpu()); };
  const Tensor blocks = ids({4, 2});
  const auto refused = [](const std::string& start, auto&& run) {
    const std::string error = error_of(run).what;
    INFO(start << " | " << error);
    CHECK(error.rfind(start, 0) == 0);
  };
  refused("count_blocks: counts ", [&] { ops::count_blocks(s, ids({3}), blocks); });
  refused("count_blocks: counts ", [&] { ops::count_blocks(s, real({1, 3}), blocks); });
  refused("count_blocks: blocks ", [&] { ops::count_blocks(s, ids({1, 3}), real({4, 2})); });
  refused("count_blocks: 4 tokens in 3 groups", [&] { ops::count_blocks(s, ids({3, 3}), blocks); });
  refused("accumulate_counts: total ", [&] { ops::accumulate_counts(s, real({3}), ids({1, 3})); });
  refused("accumulate_counts: counts ", [&] { ops::accumulate_counts(s, real({3}, DType::kF64), ids({3})); });
  const auto limit = [&](Tensor choices, Tensor dropped, Tensor taken, int64_t groups, int64_t capacity) {
    return [=, &s] { ops::limit_capacity(s, choices, dropped, taken, groups, 3, capacity); };
  };
  refused("limit_capacity: blocks ", limit(ids({8}), Tensor(), Tensor(), 1, 1));
  refused("limit_capacity: dropped ", limit(blocks, real({1}), Tensor(), 1, 1));
  refused("limit_capacity: taken ", limit(blocks, Tensor(), ids({1, 3}), 2, 1));
  refused("limit_capacity: 4 tokens in 3 groups", limit(blocks, Tensor(), Tensor(), 3, 1));
  refused("limit_capacity: block_count is 3 and capacity -1", limit(blocks, Tensor(), Tensor(), 1, -1));
  refused("exclusive_scan: offsets ", [&] { ops::exclusive_scan(s, ids({3}), ids({3})); });
  refused("exclusive_scan: counts ", [&] { ops::exclusive_scan(s, ids({4}), real({3})); });
  const auto sort = [&](Tensor order, Tensor inverse, Tensor offsets, int64_t B, int64_t b, int64_t chunk) {
    return [=, &s] { ops::sort_by_block(s, BlockRouting{order, inverse, offsets, B, b, chunk}, blocks); };
  };
  refused("sort_by_block: the routing has 3 blocks, 2 a token and chunks of 0",
          sort(ids({8}), ids({8}), ids({7}), 3, 2, 0));
  refused("sort_by_block: routing.order ", sort(ids({7}), ids({8}), ids({7}), 3, 2, 2));
  refused("sort_by_block: routing.inverse ", sort(ids({8}), Tensor(), ids({7}), 3, 2, 2));
  refused("sort_by_block: routing.offsets ", sort(ids({8}), ids({8}), ids({7}), 3, 2, 3 - 2));
  refused("sort_by_block: blocks has 2 choices a token", sort(ids({4}), ids({4}), ids({7}), 3, 1, 2));
}
