// Which rank runs on which node, and the words for it that a run begins with.
#pragma once
#include "comm/communicator.h"

#include <cstdint>
#include <string>
#include <vector>

namespace sffn {

struct Span {
  int low = 0, high = 0;
};
Span span_of(const std::vector<int>& values);  // smallest and largest; not of nothing

struct Placement {
  std::vector<int> node_of_rank;   // nodes are numbered in the order of their first ranks
  std::vector<std::string> names;  // of the nodes

  int ranks() const { return static_cast<int>(node_of_rank.size()); }
  int nodes() const { return static_cast<int>(names.size()); }
  std::vector<int> ranks_per_node() const;
  // "alpha: ranks 0-7; beta: ranks 8-15"; of many nodes the first few
  std::string str() const;
};

// host: the ranks on this node, which is called `name`. Collective over both.
Placement find_placement(Communicator& ranks, Communicator& host, const std::string& name);

// "2 ranks on 1 node, 1 thread each, 2 cores", "16 ranks on 2 nodes, 8 a node, 4 threads each, 32 cores a node"
std::string describe_world(const Placement&, Span threads, Span cores);

// "16 data ranks, 8 expert ranks, 2 replicas, zero 1; an expert group lies on 1 node". expert_ranks divides the ranks.
std::string describe_layout(const Placement&, int64_t expert_ranks, int64_t zero);
// That expert groups lie on more nodes than they need, and what helps; empty: they do not.
std::string placement_warning(const Placement&, int64_t expert_ranks);

// Equal texts once, with their number where there are several: "2 × a and b".
std::string count_equal(const std::vector<std::string>& texts);

}  // namespace sffn
