#include "kernels/ref/hash_blocks.h"

#include "core/stream.h"
#include "kernels/ops.h"
#include "support/any_threads.h"
#include "support/catch.h"
#include "support/error_of.h"
#include "support/host_tensor.h"

#include <algorithm>
#include <cmath>

using namespace sffn;
using namespace sffn::test;

namespace {

std::vector<double> hashed(const std::vector<int32_t>& ids, int64_t b, int64_t B, uint64_t seed = 3,
                           int64_t layer = 5) {
  const HostTensor blocks(DType::kI32, {static_cast<int64_t>(ids.size()), b});
  Stream stream(cpu_runtime());
  ops::hash_blocks(stream, blocks, HostTensor::indices(ids), seed, layer, B);
  return blocks.values();
}

std::vector<int32_t> first_ids(int32_t count) {
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t i = 0; i < count; ++i) ids[static_cast<size_t>(i)] = i;
  return ids;
}

}  // namespace

// Kills: blocks drawn with replacement, out of order, out of range, or by position in the batch.
TEST_CASE("hashed blocks are distinct, ascending and a function of the id", "[ops][hash_blocks]") {
  for (const int64_t B : {1, 2, 31, 33, 127, 1000}) {
    for (const int64_t b : {int64_t{1}, (B + 1) / 2, B}) {
      const std::vector<int32_t> ids = {7, 0, 7, 50'256, 1};
      const std::vector<double> blocks = hashed(ids, b, B);
      for (size_t n = 0; n < ids.size(); ++n) {
        const auto row = blocks.begin() + static_cast<int64_t>(n) * b;
        CHECK((row[0] >= 0 && row[b - 1] < static_cast<double>(B)));
        CHECK(std::adjacent_find(row, row + b, [](double i, double j) { return i >= j; }) == row + b);
      }
      CHECK(std::equal(blocks.begin(), blocks.begin() + b, blocks.begin() + 2 * b));
    }
  }
  CHECK(hashed({}, 2, 8).empty());
}

// Kills: other draws than those of the permutation, a part of many blocks that is left out or taken twice.
TEST_CASE("hashed blocks are the first places of the permutation of their id", "[ops][hash_blocks]") {
  for (const int64_t B : {1, 31, 33, 1000, 65'536, 65'537, 200'000}) {
    for (const int64_t b : {int64_t{1}, std::min<int64_t>(B, 300)}) {
      const std::vector<int32_t> ids = {7, 0, -3, 50'256, 1};
      std::vector<double> expected;
      std::vector<int32_t> row(static_cast<size_t>(b));
      for (int32_t id : ids) {
        ref::hash_blocks_row(row.data(), id, 3, 5, B, b);
        expected.insert(expected.end(), row.begin(), row.end());
      }
      CHECK(hashed(ids, b, B) == expected);
    }
  }
}

// Kills: one permutation for all ids, layers or seeds; ids in neighbouring blocks.
TEST_CASE("hashed blocks differ by id, layer and seed, and load all blocks alike", "[ops][hash_blocks]") {
  constexpr int32_t kIds = 8000;
  constexpr int64_t B = 16, b = 2;
  const std::vector<int32_t> ids = first_ids(kIds);
  const std::vector<double> blocks = hashed(ids, b, B);
  std::vector<double> load(B);
  for (double block : blocks) ++load[static_cast<size_t>(block)];
  const double mean = kIds * b / static_cast<double>(B);  // 1000; a binomial's standard deviation is below √mean
  for (double count : load) CHECK(std::abs(count - mean) < 5 * std::sqrt(mean));
  const auto agreement = [&](const std::vector<double>& other) {
    int same = 0;
    for (int32_t n = 0; n < kIds; ++n) same += blocks[2 * n] == other[2 * n] && blocks[2 * n + 1] == other[2 * n + 1];
    return same;
  };
  // two of 16 blocks agree by chance once in 120
  CHECK(agreement(hashed(ids, b, B, 4)) < 2 * kIds / 120);
  CHECK(agreement(hashed(ids, b, B, 3, 6)) < 2 * kIds / 120);
}

// Kills: a choice of more blocks than there are.
TEST_CASE("hash_blocks refuses tensors that do not fit", "[ops][hash_blocks][contract]") {
  Stream s(cpu_runtime());
  const HostTensor blocks(DType::kI32, {3, 2}), ids = HostTensor::indices({1, 2, 3}), two = HostTensor::indices({1, 2});
  CHECK(error_of([&] { ops::hash_blocks(s, blocks, two, 1, 0, 8); }).what ==
        "hash_blocks: ids is i32 [2] on cpu; expected i32 [3] on cpu");
  CHECK(error_of([&] { ops::hash_blocks(s, blocks, ids, 1, 0, 1); }).what ==
        "hash_blocks: 2 of 1 blocks; expected 1 to all of them, and fewer than 2^31");
}

// Kills: a permutation that threads share.
TEST_CASE("hashed blocks are the same on any number of threads", "[ops][hash_blocks]") {
  check_same_on_any_threads([] { return hashed(first_ids(3000), 4, 100); });
}
