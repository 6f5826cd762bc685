#include "comm/placement.h"

#include "comm/agree.h"

#include <algorithm>
#include <map>
#include <set>

namespace sffn {
namespace {

constexpr int kNodesShown = 8;

std::string str(Span span) { return span.low == span.high ? cat(span.low) : cat(span.low, " to ", span.high); }
std::string counted(Span span, const char* what) { return cat(str(span), " ", what, span.high == 1 ? "" : "s"); }
std::string counted(int count, const char* what) { return counted(Span{count, count}, what); }

// Nodes that the widest group of `size` neighbours lies on.
int widest_group(const Placement& placement, int64_t size) {
  size_t widest = 0;
  for (auto first = placement.node_of_rank.begin(); first != placement.node_of_rank.end(); first += size) {
    widest = std::max(widest, std::set<int>(first, first + size).size());
  }
  return static_cast<int>(widest);
}

}  // namespace

Span span_of(const std::vector<int>& values) {
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  return {*low, *high};
}

std::vector<int> Placement::ranks_per_node() const {
  std::vector<int> count(names.size());
  for (const int node : node_of_rank) ++count[static_cast<size_t>(node)];
  return count;
}

std::string Placement::str() const {
  std::string text;
  for (int node = 0; node < std::min(nodes(), kNodesShown); ++node) {
    text += cat(node == 0 ? "" : "; ", names[static_cast<size_t>(node)], ": ranks ");
    std::string ranges;
    for (int r = 0; r < ranks(); ++r) {
      const auto is_here = [&](int rank) {
        return rank >= 0 && rank < ranks() && node_of_rank[static_cast<size_t>(rank)] == node;
      };
      if (!is_here(r) || (is_here(r - 1) && is_here(r + 1))) continue;
      ranges += is_here(r - 1) ? cat("-", r) : cat(ranges.empty() ? "" : ",", r);
    }
    text += ranges;
  }
  return nodes() > kNodesShown ? cat(text, "; and ", counted(nodes() - kNodesShown, "node"), " more") : text;
}

Placement find_placement(Communicator& ranks, Communicator& host, const std::string& name) {
  const std::vector<int> firsts = ranks.gather_values(host.min_value(ranks.rank()));
  const std::vector<std::string> names = gather_texts(ranks, name);
  Placement placement;
  std::map<int, int> number;  // of the node whose first rank this is
  for (const int first : firsts) {
    const auto [node, is_new] = number.emplace(first, placement.nodes());
    if (is_new) placement.names.push_back(names[static_cast<size_t>(first)]);
    placement.node_of_rank.push_back(node->second);
  }
  return placement;
}

std::string describe_world(const Placement& placement, Span threads, Span cores) {
  const bool one_node = placement.nodes() == 1;
  return cat(counted(placement.ranks(), "rank"), " on ", counted(placement.nodes(), "node"),
             one_node ? "" : cat(", ", str(span_of(placement.ranks_per_node())), " a node"), ", ",
             counted(threads, "thread"), placement.ranks() > 1 ? " each, " : ", ", counted(cores, "core"),
             one_node ? "" : " a node");
}

std::string describe_layout(const Placement& placement, int64_t expert_ranks, int64_t zero) {
  const int expert = static_cast<int>(expert_ranks);
  std::string text = cat(counted(placement.ranks(), "data rank"), ", ", counted(expert, "expert rank"), ", ",
                         counted(placement.ranks() / expert, "replica"), ", zero ", zero);
  if (expert == 1 || placement.nodes() == 1) return text;
  const int widest = widest_group(placement, expert_ranks);
  return cat(text, "; an expert group lies on ", widest == 1 ? "" : "up to ", counted(widest, "node"));
}

std::string placement_warning(const Placement& placement, int64_t expert_ranks) {
  const int most = span_of(placement.ranks_per_node()).high;
  const int64_t needed = (expert_ranks + most - 1) / most;
  const int widest = widest_group(placement, expert_ranks);
  if (widest <= needed) return "";
  return cat("a group of ", expert_ranks, " expert ranks lies on ", counted(widest, "node"), " where ", needed,
             " would do: place ranks node by node (mpirun --map-by ppr:N:node, srun --distribution=block), with a "
             "number a node that parallel.expert divides");
}

std::string count_equal(const std::vector<std::string>& texts) {
  std::string all;
  for (auto text = texts.begin(); text != texts.end(); ++text) {
    if (std::find(texts.begin(), text, *text) != text) continue;
    const auto count = std::count(texts.begin(), texts.end(), *text);
    all += cat(all.empty() ? "" : " and ", count == 1 ? "" : cat(count, " × "), *text);
  }
  return all;
}

}  // namespace sffn
