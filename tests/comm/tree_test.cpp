#include "comm/tree.h"

#include "comm/forwarding.h"
#include "comm/planned.h"
#include "comm/threads.h"
#include "comm/tree_check.h"
#include "core/buffer.h"
#include "support/catch.h"
#include "support/counting_communicator.h"
#include "support/late_communicator.h"

#include <bit>
#include <complex>
#include <cstring>
#include <mutex>
#include <set>

using namespace sffn;

namespace {

constexpr int64_t kFlat = 1031;

// The definition, written a second time: the sum of node (level, index) over M leaves.
template <class T>
T node_sum(const std::vector<T>& leaves, int level, int64_t index) {
  if (level == 0) return leaves[static_cast<size_t>(index)];
  const bool has_right = (2 * index + 1) << (level - 1) < static_cast<int64_t>(leaves.size());
  const T left = node_sum(leaves, level - 1, 2 * index);
  return has_right ? left + node_sum(leaves, level - 1, 2 * index + 1) : left;
}

template <class T>
T tree_by_definition(const std::vector<T>& leaves) {
  int level = 0;
  while ((size_t{1} << level) < leaves.size()) ++level;
  return node_sum(leaves, level, 0);
}

template <class T>
std::vector<T> leaves_at(int64_t i, int64_t count) {
  std::vector<T> values;
  for (int64_t leaf = 0; leaf < count; ++leaf) values.push_back(static_cast<T>(test::leaf_value(leaf, i)));
  return values;
}

template <class T>
std::vector<T> expected_gradient(int64_t leaves) {
  std::vector<T> sum;
  for (int64_t i = 0; i < kFlat; ++i) sum.push_back(tree_by_definition(leaves_at<T>(i, leaves)));
  return sum;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

// How many ranks of `ranks` hold exactly the expected bits.
template <class T>
int ranks_that_agree(int ranks, const test::TreeCase& c, const std::vector<T>& expected) {
  std::mutex guard;
  int agreeing = 0;
  run_threads(ranks, [&](Communicator& comm) {
    test::LateCommunicator late(comm);
    const std::vector<T> found = test::summed_gradient<T>(late, c);
    const std::lock_guard<std::mutex> lock(guard);
    agreeing += same_bits(found, expected);
  });
  return agreeing;
}

}  // namespace

// Kills: adding in order of ranks or one after another; a missing leaf added as a level; misrouted pieces; a buffer
// that is not cleared; reading a partial after it was overwritten.
TEST_CASE("any number of ranks sums a gradient to the same bits", "[tree]") {
  for (const int64_t leaves : {1, 2, 3, 4, 6, 7, 8, 12}) {
    const std::vector<float> expected = expected_gradient<float>(leaves);
    for (const int ranks : {1, 2, 3, 4, 5, 8}) {
      INFO(leaves << " leaves on " << ranks << " ranks");
      test::TreeCase c{split_leaves(leaves, ranks), kFlat};
      CHECK(ranks_that_agree(ranks, c, expected) == ranks);
      c.out_in_partial = true;
      CHECK(ranks_that_agree(ranks, c, expected) == ranks);
    }
  }
}

// Kills: a plan that supposes equal shares or leaves on every rank.
TEST_CASE("any split of the leaves sums to the same bits", "[tree]") {
  const std::vector<float> expected = expected_gradient<float>(12);
  const std::vector<std::vector<LeafRange>> splits = {
      {{0, 0}, {0, 12}}, {{0, 11}, {11, 12}, {12, 12}}, {{0, 5}, {5, 5}, {5, 6}, {6, 12}}, {{0, 1}, {1, 11}, {11, 12}}};
  for (const auto& shares : splits) {
    INFO(shares.size() << " ranks, the first with " << shares[0].last << " leaves");
    CHECK(ranks_that_agree(static_cast<int>(shares.size()), {shares, kFlat}, expected) ==
          static_cast<int>(shares.size()));
  }
}

// Kills: rounds counted by a rank's own range; offsets of a piece that ignore its round; pieces added before they have
// come, or sent from memory that the round before still needs.
TEST_CASE("a gradient that goes in many pieces sums to the same bits", "[tree]") {
  test::TreeCase c{split_leaves(7, 3), 5003};
  std::vector<float> expected;
  for (int64_t i = 0; i < c.flat; ++i) expected.push_back(tree_by_definition(leaves_at<float>(i, 7)));
  c.exchange_bytes = 1;  // pieces of the smallest size
  CHECK(ranks_that_agree(3, c, expected) == 3);
}

// Kills: a fold in float whatever the type.
TEST_CASE("gradients in double and in complex numbers sum by the same tree", "[tree]") {
  using Complex = std::complex<double>;
  const test::TreeCase c{split_leaves(7, 3), kFlat};
  CHECK(ranks_that_agree(3, c, expected_gradient<double>(7)) == 3);
  CHECK(ranks_that_agree(3, c, expected_gradient<Complex>(7)) == 3);
}

// Guards the judge: with leaves whose order does not matter, the tests above would accept any sum.
TEST_CASE("leaves summed one after another differ from the tree", "[tree]") {
  const std::vector<float> tree = expected_gradient<float>(8);
  int64_t different = 0;
  for (int64_t i = 0; i < kFlat; ++i) {
    float sum = 0;
    for (const float leaf : leaves_at<float>(i, 8)) sum += leaf;
    different += sum != tree[static_cast<size_t>(i)];
  }
  CHECK(different > kFlat / 4);
}

// Kills: more buffers than the plan says, or a plan that says too many.
TEST_CASE("a fold uses exactly the buffers that the plan promises", "[tree]") {
  Stream stream(cpu_runtime());
  for (const int64_t leaves : {1, 2, 3, 5, 8, 12}) {
    for (int64_t first = 0; first < leaves; ++first) {
      for (int64_t last = first + 1; last <= leaves; ++last) {
        const SumTree tree({{0, first}, {first, last}, {last, leaves}});
        const int64_t count = tree.buffers(1);
        const Buffer memory(cpu_runtime(), {count}, DType::kF32);
        std::vector<Tensor> buffers;
        for (int64_t i = 0; i < count; ++i) buffers.push_back(memory.tensor({count}, DType::kF32).slice(i, 1));
        TreeFold fold(tree, 1, buffers);
        std::set<void*> used;
        for (int64_t leaf = first; leaf < last; ++leaf) {
          used.insert(fold.next(stream).raw());
          fold.push(stream);
        }
        INFO("leaves " << first << " to " << last << " of " << leaves);
        CHECK(static_cast<int64_t>(used.size()) == count);
        CHECK(fold.partials().size() == tree.partials(1).size());
      }
    }
  }
}

// Kills: holding every leaf; partial sums that are not the largest nodes.
TEST_CASE("a power-of-two share needs log2 + 1 buffers and leaves one partial sum", "[tree]") {
  for (int levels = 0; levels <= 10; ++levels) {
    const int64_t leaves = int64_t{1} << levels;
    const SumTree alone({{0, leaves}}), shared(split_leaves(4 * leaves, 4));
    CHECK(alone.buffers(0) == levels + 1);
    for (int rank = 0; rank < 4; ++rank) {
      CHECK(shared.buffers(rank) == levels + 1);
      CHECK(shared.partials(rank) == std::vector<TreeNode>{{levels, rank}});
    }
  }
}

// Kills: an odd share that grows with the number of leaves.
TEST_CASE("no share leaves more than two partial sums a level", "[tree]") {
  const SumTree tree({{0, 1}, {1, 1023}, {1023, 1024}});
  CHECK(tree.partials(1).size() == 18);
  CHECK(tree.buffers(1) <= 20);
}

// Kills: clearing the buffer between leaves; a tree over leaves that no rank kept.
TEST_CASE("without determinism each rank sums in one buffer, and the tree is over the ranks", "[tree]") {
  for (const int ranks : {1, 3, 8}) {
    const std::vector<LeafRange> shares = split_leaves(6, ranks);
    std::vector<float> expected;
    for (int64_t i = 0; i < kFlat; ++i) {
      const std::vector<float> leaves = leaves_at<float>(i, 6);
      std::vector<float> sums;
      for (const LeafRange& share : shares) {
        if (share.first == share.last) continue;
        sums.push_back(0);
        for (int64_t leaf = share.first; leaf < share.last; ++leaf) sums.back() += leaves[static_cast<size_t>(leaf)];
      }
      expected.push_back(tree_by_definition(sums));
    }
    INFO(ranks << " ranks");
    const SumTree tree(shares, false);
    for (int rank = 0; rank < ranks; ++rank) CHECK(tree.buffers(rank) <= 1);
    CHECK(ranks_that_agree(ranks, {shares, kFlat, false}, expected) == ranks);
  }
}

// Kills: a host sum of another shape than the gradients'.
TEST_CASE("host values sum by the same tree, however many ranks hold them", "[tree]") {
  CHECK(tree_sum({}) == 0.0);
  for (const int64_t leaves : {1, 2, 3, 4, 6, 7, 8, 12, 100}) {
    const std::vector<double> values = leaves_at<double>(0, leaves);
    CHECK(std::bit_cast<uint64_t>(tree_sum(values)) == std::bit_cast<uint64_t>(tree_by_definition(values)));
    for (const int ranks : {1, 3, 4}) {
      CHECK_NOTHROW(run_threads(ranks, [&](Communicator& comm) {
        const LeafRange share = split_leaves(leaves, ranks)[static_cast<size_t>(comm.rank())];
        const std::vector<double> mine(values.begin() + share.first, values.begin() + share.last);
        SFFN_CHECK(comm.gather_lists(mine) == values, "other values than those of one rank");
      }));
    }
  }
}

// Kills: shares that overlap or leave a leaf out going through.
TEST_CASE("shares that do not cover the leaves in order are refused", "[tree]") {
  CHECK_THROWS_AS(SumTree({{0, 2}, {3, 4}}), RunError);
  CHECK_THROWS_AS(SumTree({{0, 2}, {1, 4}}), RunError);
  CHECK_THROWS_AS(SumTree({{1, 2}}), RunError);
}

// Kills: pieces of another size in the plan; bytes of one piece for those of all; scratch for all pieces at once.
TEST_CASE("on the meta device a sum over ranks counts all its pieces, and takes the scratch of two", "[tree]") {
  constexpr int64_t kLong = 5000, kBytes = 4096;
  for (const int ranks : {2, 3}) {
    const SumTree tree(split_leaves(4, ranks));
    const std::vector<FlatRange> owned(static_cast<size_t>(ranks), FlatRange{0, kLong});
    const auto run = [&](DeviceRuntime& runtime, Communicator& comm, size_t scratch_bytes) {
      Stream stream(runtime);
      Arena scratch(runtime, "scratch", scratch_bytes);
      std::vector<Buffer> buffers;
      std::vector<Tensor> partials;
      for (size_t i = 0; i <= tree.partials(comm.rank()).size(); ++i) {
        buffers.emplace_back(runtime, Shape{kLong}, DType::kF32);
        partials.push_back(buffers.back().tensor({kLong}, DType::kF32));
      }
      const Tensor out = partials.back();
      partials.pop_back();
      tree_reduce_scatter(stream, comm, scratch, tree, out, partials, owned, kBytes);
      return scratch.high_water();
    };
    Traffic planned;
    const size_t needed = run(meta_runtime(), *make_planned_communicator(0, ranks, planned), size_t{1} << 30);
    const int64_t rounds = tree_exchange_rounds(tree, 0, owned, DType::kF32, kBytes);
    CHECK(rounds > 2);
    run_threads(ranks, [&](Communicator& comm) {
      test::CountingCommunicator counting(comm);
      if (comm.rank() != 0) {
        run(cpu_runtime(), comm, size_t{1} << 20);
        return;
      }
      const size_t used = run(cpu_runtime(), counting, needed);
      CHECK(used == needed);
      CHECK(counting.calls == rounds);
      CHECK(counting.traffic.all_to_all.bytes == planned.all_to_all.bytes);
    });
  }
}
