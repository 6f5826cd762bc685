#include "comm/placement.h"

#include "comm/threads.h"
#include "support/catch.h"

using namespace sffn;

namespace {

Placement placed(const std::vector<int>& node_of_rank, std::vector<std::string> names = {"alpha", "beta"}) {
  names.resize(static_cast<size_t>(span_of(node_of_rank).high) + 1, "gamma");
  return {node_of_rank, names};
}

const Placement kBlocks = placed({0, 0, 0, 0, 1, 1, 1, 1});
const Placement kRoundRobin = placed({0, 1, 0, 1, 0, 1, 0, 1});
const Placement kUneven = placed({0, 0, 0, 1, 1, 1, 1, 1});

}  // namespace

// Kills: nodes told apart by their names; the number of a node that is its first rank; names of other ranks.
TEST_CASE("a rank's node is that of the ranks it shares memory with", "[comm]") {
  for (const bool neighbours : {true, false}) {
    std::vector<Placement> same_name(4), other_names(4);
    run_threads(4, [&](Communicator& ranks) {
      const int node = neighbours ? ranks.rank() / 2 : ranks.rank() % 2;
      const auto host = ranks.split(node, ranks.rank());
      same_name[static_cast<size_t>(ranks.rank())] = find_placement(ranks, *host, "box");
      other_names[static_cast<size_t>(ranks.rank())] = find_placement(ranks, *host, cat("box", node));
    });
    for (size_t rank = 0; rank < 4; ++rank) {
      CHECK(same_name[rank].names == std::vector<std::string>{"box", "box"});
      CHECK(same_name[rank].node_of_rank == (neighbours ? std::vector{0, 0, 1, 1} : std::vector{0, 1, 0, 1}));
      CHECK(other_names[rank].names == std::vector<std::string>{"box0", "box1"});
    }
  }
}

// Kills: rank 0's numbers in place of the smallest and largest; plurals; "a node" where there is one.
TEST_CASE("the first line tells ranks, nodes, threads and cores, and where they differ the range", "[comm]") {
  CHECK(describe_world(placed({0}), {2, 2}, {2, 2}) == "1 rank on 1 node, 2 threads, 2 cores");
  CHECK(describe_world(placed({0, 0}), {1, 1}, {2, 2}) == "2 ranks on 1 node, 1 thread each, 2 cores");
  CHECK(describe_world(kBlocks, {4, 4}, {32, 32}) == "8 ranks on 2 nodes, 4 a node, 4 threads each, 32 cores a node");
  CHECK(describe_world(kUneven, {1, 2}, {8, 16}) ==
        "8 ranks on 2 nodes, 3 to 5 a node, 1 to 2 threads each, 8 to 16 cores a node");
}

// Kills: a range that joins ranks of other nodes; a list of hundreds of nodes.
TEST_CASE("the ranks of each node are told in ranges, of many nodes those of the first", "[comm]") {
  CHECK(kBlocks.str() == "alpha: ranks 0-3; beta: ranks 4-7");
  CHECK(kRoundRobin.str() == "alpha: ranks 0,2,4,6; beta: ranks 1,3,5,7");
  CHECK(placed({0, 0, 1, 0, 0, 0}).str() == "alpha: ranks 0-1,3-5; beta: ranks 2");
  const std::string many = placed({0, 1, 2, 3, 4, 5, 6, 7, 8, 9}).str();
  CHECK(many.find("gamma: ranks 7; and 2 nodes more") != std::string::npos);
  CHECK(many.find("ranks 8") == std::string::npos);
}

// Kills: expert ranks times replicas that are not the data ranks; the first group taken for all; a node that does not
// hold a group counted as if it did.
TEST_CASE("the layout tells data ranks, expert ranks, replicas, zero and how far an expert group reaches", "[comm]") {
  CHECK(describe_layout(placed({0}), 1, 0) == "1 data rank, 1 expert rank, 1 replica, zero 0");
  CHECK(describe_layout(placed({0, 0, 0, 0}), 2, 1) == "4 data ranks, 2 expert ranks, 2 replicas, zero 1");
  CHECK(describe_layout(kBlocks, 1, 1) == "8 data ranks, 1 expert rank, 8 replicas, zero 1");
  CHECK(describe_layout(kBlocks, 4, 1) ==
        "8 data ranks, 4 expert ranks, 2 replicas, zero 1; an expert group lies on 1 node");
  CHECK(describe_layout(kUneven, 2, 1).ends_with("; an expert group lies on up to 2 nodes"));
}

// Kills: silence where ranks go round the nodes; a warning that no other placement could end.
TEST_CASE("expert groups on more nodes than they need are warned of", "[comm]") {
  for (const int expert : {1, 2, 4, 8}) CHECK(placement_warning(kBlocks, expert).empty());
  CHECK(placement_warning(kRoundRobin, 1).empty());
  CHECK(placement_warning(kRoundRobin, 8).empty());
  CHECK(placement_warning(kUneven, 4).find("a group of 4 expert ranks lies on 2 nodes where 1 would do") == 0);
  const std::string warning = placement_warning(kRoundRobin, 2);
  CHECK(warning.find("--map-by ppr:N:node") != std::string::npos);
  CHECK(warning.find("--distribution=block") != std::string::npos);
}

// Kills: the number of different texts in place of how often each comes; equal neighbours only.
TEST_CASE("equal cards are told once with their number", "[comm]") {
  CHECK(count_equal({"a"}) == "a");
  CHECK(count_equal({"a", "a"}) == "2 × a");
  CHECK(count_equal({"a", "b", "a"}) == "2 × a and b");
}
