#include "comm/tree.h"

#include "kernels/ops.h"

#include <algorithm>
#include <numeric>

namespace sffn {
namespace {

constexpr int64_t kSmallestPiece = 1024;

bool has_no_right_sibling(TreeNode node, int64_t leaves) {
  return node.index % 2 == 0 && ((node.index + 1) << node.level) >= leaves;
}

// A node without right sibling is its parent; up to the root.
TreeNode promoted(TreeNode node, int64_t leaves) {
  while ((int64_t{1} << node.level) < leaves && has_no_right_sibling(node, leaves)) {
    node = {node.level + 1, node.index / 2};
  }
  return node;
}

// Puts `entry` on a stack of nodes in order of leaves, then adds neighbours that are the two children of one node:
// add(left, right) makes left their sum.
template <class Entry, class Add>
void push_node(std::vector<Entry>& stack, Entry entry, int64_t leaves, Add&& add) {
  stack.push_back(std::move(entry));
  while (true) {
    Entry& top = stack.back();
    top.node = promoted(top.node, leaves);
    if (stack.size() < 2 || top.node.index % 2 == 0) return;
    Entry& below = stack[stack.size() - 2];
    if (below.node != TreeNode{top.node.level, top.node.index - 1}) return;
    add(below, top);
    below.node = {below.node.level + 1, below.node.index / 2};
    stack.pop_back();
  }
}

template <class Value>
struct Valued {
  TreeNode node;
  Value value;
};

}  // namespace

std::vector<LeafRange> split_leaves(int64_t leaves, int ranks) {
  std::vector<LeafRange> shares;
  for (int r = 0; r < ranks; ++r) shares.push_back({leaves * r / ranks, leaves * (r + 1) / ranks});
  return shares;
}

SumTree::SumTree(std::vector<LeafRange> shares, bool deterministic)
    : shares_(std::move(shares)),
      deterministic_(deterministic),
      partials_(shares_.size()),
      buffers_(shares_.size(), 0) {
  int64_t next = 0, ranks_with_leaves = 0;
  for (const LeafRange& share : shares_) {
    SFFN_CHECK(share.first == next && share.last >= next, "a rank has leaves [", share.first, ", ", share.last,
               "), its first should be ", next);
    next = share.last;
    ranks_with_leaves += share.last > share.first;
  }
  leaves_ = deterministic_ ? next : ranks_with_leaves;
  int64_t rank_index = 0;
  for (size_t r = 0; r < shares_.size(); ++r) {
    if (shares_[r].first == shares_[r].last) continue;
    if (!deterministic_) {
      partials_[r] = {TreeNode{0, rank_index++}};
      buffers_[r] = 1;
      continue;
    }
    std::vector<Valued<char>> stack;
    for (int64_t leaf = shares_[r].first; leaf < shares_[r].last; ++leaf) {
      buffers_[r] = std::max(buffers_[r], static_cast<int64_t>(stack.size()) + 1);
      push_node(stack, {{0, leaf}, 0}, leaves_, [](auto&, auto&) {});
    }
    for (const auto& entry : stack) partials_[r].push_back(entry.node);
  }
}

TreeFold::TreeFold(const SumTree& tree, int rank, std::vector<Tensor> buffers)
    : tree_leaves_(tree.leaves()),
      deterministic_(tree.deterministic()),
      share_(tree.share(rank)),
      expected_partials_(tree.partials(rank).size()),
      buffers_(std::move(buffers)) {
  SFFN_CHECK(static_cast<int64_t>(buffers_.size()) == tree.buffers(rank), buffers_.size(), " gradient buffers, rank ",
             rank, " needs ", tree.buffers(rank));
  start();
}

void TreeFold::start() {
  held_.clear();
  free_.resize(buffers_.size());
  std::iota(free_.rbegin(), free_.rend(), size_t{0});
  leaf_ = share_.first;
  writing_ = false;
}

Tensor TreeFold::next(Stream& stream) {
  SFFN_CHECK(!writing_ && leaf_ < share_.last, "leaf ", leaf_, " of [", share_.first, ", ", share_.last,
             ") was asked for twice or does not exist");
  writing_ = true;
  if (!deterministic_) {
    if (leaf_ == share_.first) ops::fill_zero(stream, buffers_[0]);
    return buffers_[0];
  }
  const Tensor& buffer = buffers_[free_.back()];
  ops::fill_zero(stream, buffer);
  return buffer;
}

void TreeFold::push(Stream& stream) {
  SFFN_CHECK(writing_, "no leaf is being written");
  writing_ = false;
  const TreeNode leaf{0, leaf_++};
  if (!deterministic_) {
    held_ = {{leaf, 0}};
    return;
  }
  const size_t buffer = free_.back();
  free_.pop_back();
  push_node(held_, Held{leaf, buffer}, tree_leaves_, [&](const Held& left, const Held& right) {
    ops::add(stream, buffers_[left.buffer], buffers_[right.buffer]);
    free_.push_back(right.buffer);
  });
}

std::vector<Tensor> TreeFold::partials() const {
  SFFN_CHECK(leaf_ == share_.last && held_.size() == expected_partials_, "leaves [", leaf_, ", ", share_.last,
             ") are missing");
  std::vector<Tensor> values;
  for (const Held& held : held_) values.push_back(buffers_[held.buffer]);
  return values;
}

namespace {

// How the ranges are cut: a piece is what one owner gets done in one round.
struct Pieces {
  int64_t nodes = 0;    // of all ranks
  int64_t longest = 0;  // range
  int64_t piece = 0, rounds = 0;

  Pieces(const SumTree& tree, std::span<const FlatRange> owned, DType dtype, size_t exchange_bytes) {
    int64_t most = 0;
    for (int r = 0; r < tree.ranks(); ++r) {
      const auto own = static_cast<int64_t>(tree.partials(r).size());
      nodes += own;
      most = std::max(most, own);
      longest = std::max(longest, owned[static_cast<size_t>(r)].count);
    }
    const int64_t budget = static_cast<int64_t>(exchange_bytes / size_of(dtype)) / (nodes + most * (tree.ranks() - 1));
    piece = budget >= longest ? longest : std::min(longest, std::max(kSmallestPiece, budget / 2));
    rounds = longest == 0 ? 0 : (longest + piece - 1) / piece;
  }
};

// One exchange of tree_reduce_scatter. While the pieces of one round are added, those of the next are on their way: two
// rounds have memory. On the meta device there is but one round, which counts what all of them would do.
class Exchange {
 public:
  Exchange(Stream& stream, Communicator& comm, Arena& scratch, const SumTree& tree, std::span<const Tensor> partials,
           std::span<const FlatRange> owned, DType dtype, size_t exchange_bytes)
      : stream_(stream), comm_(comm), tree_(tree), partials_(partials), owned_(owned) {
    const Pieces pieces(tree, owned, dtype, exchange_bytes);
    piece_ = pieces.piece;
    rounds_ = pieces.rounds;
    const int64_t others = comm_.size() - 1, own = static_cast<int64_t>(partials_.size());
    if (others == 0) return;
    const int64_t largest_own = std::min(piece_, range(comm_.rank()).count);
    for (int64_t i = 0; i < std::min<int64_t>(rounds_, 2); ++i) {
      under_way_.push_back({scratch.allocate({own * others * piece_}, dtype, "gradient pieces to send"),
                            scratch.allocate({(pieces.nodes - own) * largest_own}, dtype, "gradient pieces received"),
                            nullptr});
    }
    if (!stream.is_meta() || rounds_ == 0) return;
    piece_ = pieces.longest;
    rounds_ = 1;
    const Shape to_send{own * others * piece_}, received{(pieces.nodes - own) * range(comm_.rank()).count};
    whole_send_ = Buffer(stream.runtime(), to_send, dtype);
    whole_recv_ = Buffer(stream.runtime(), received, dtype);
    under_way_[0].send = whole_send_.tensor(to_send, dtype);
    under_way_[0].recv = whole_recv_.tensor(received, dtype);
  }

  void run(const Tensor& out) {
    const bool trades = comm_.size() > 1;
    if (trades && rounds_ > 0) begin(0);
    for (int64_t round = 0; round < rounds_; ++round) {
      if (trades) under_way(round).transfer->finish(stream_);
      if (trades && round + 1 < rounds_) begin(round + 1);
      add(round, out);
    }
  }

 private:
  struct Round {
    Tensor send, recv;
    std::unique_ptr<Transfer> transfer;
  };
  Round& under_way(int64_t round) { return under_way_[static_cast<size_t>(round % 2)]; }

  void add(int64_t round, const Tensor& out) {
    const FlatRange mine = piece_of(comm_.rank(), round);
    if (mine.count == 0) return;
    std::vector<Valued<Tensor>> stack;
    int64_t received = 0;
    for (int r = 0; r < comm_.size(); ++r) {
      for (size_t j = 0; j < tree_.partials(r).size(); ++j) {
        const Tensor value = r == comm_.rank() ? partials_[j].slice(mine.offset, mine.count)
                                               : under_way(round).recv.slice(received++ * mine.count, mine.count);
        push_node(stack, {tree_.partials(r)[j], value}, tree_.leaves(),
                  [&](const auto& left, const auto& right) { ops::add(stream_, left.value, right.value); });
      }
    }
    SFFN_CHECK(stack.size() == 1, "the leaves do not sum to one root but to ", stack.size(), " nodes");
    const Tensor target = out.slice(mine.offset - range(comm_.rank()).offset, mine.count);
    if (target.raw() != stack[0].value.raw()) ops::copy(stream_, target, stack[0].value);
  }

  int64_t nodes_of(int rank) const { return static_cast<int64_t>(tree_.partials(rank).size()); }
  FlatRange range(int rank) const { return owned_[static_cast<size_t>(rank)]; }
  FlatRange piece_of(int rank, int64_t round) const {
    const int64_t first = std::min(round * piece_, range(rank).count);
    return {range(rank).offset + first, std::min(piece_, range(rank).count - first)};
  }

  // Every rank's nodes of my piece set out for recv in order of ranks, my nodes of their pieces for them.
  void begin(int64_t round) {
    const FlatRange mine = piece_of(comm_.rank(), round);
    const Tensor& send = under_way(round).send;
    std::vector<int64_t> send_counts, recv_counts;
    int64_t sent = 0;
    for (int r = 0; r < comm_.size(); ++r) {
      const bool self = r == comm_.rank();
      const FlatRange theirs = piece_of(r, round);
      send_counts.push_back(self ? 0 : static_cast<int64_t>(partials_.size()) * theirs.count);
      recv_counts.push_back(self ? 0 : nodes_of(r) * mine.count);
      if (self || theirs.count == 0) continue;
      for (const Tensor& partial : partials_) {
        ops::copy(stream_, send.slice(sent, theirs.count), partial.slice(theirs.offset, theirs.count));
        sent += theirs.count;
      }
    }
    const int64_t received = std::accumulate(recv_counts.begin(), recv_counts.end(), int64_t{0});
    under_way(round).transfer = comm_.begin_all_to_all(stream_, under_way(round).recv.slice(0, received), recv_counts,
                                                       send.slice(0, sent), send_counts);
  }

  Stream& stream_;
  Communicator& comm_;
  const SumTree& tree_;
  std::span<const Tensor> partials_;
  std::span<const FlatRange> owned_;
  int64_t piece_ = 0, rounds_ = 0;
  std::vector<Round> under_way_;
  Buffer whole_send_, whole_recv_;  // on the meta device
};

}  // namespace

void tree_reduce_scatter(Stream& stream, Communicator& comm, Arena& scratch, const SumTree& tree, Tensor out,
                         std::span<const Tensor> partials, std::span<const FlatRange> owned, size_t exchange_bytes) {
  SFFN_CHECK(tree.ranks() == comm.size() && static_cast<int>(owned.size()) == comm.size(), "a tree for ", tree.ranks(),
             " ranks and ", owned.size(), " ranges on ", comm.size(), " ranks");
  SFFN_CHECK(tree.leaves() > 0, "no rank has a leaf");
  SFFN_CHECK(partials.size() == tree.partials(comm.rank()).size(), partials.size(), " partial sums, the tree says ",
             tree.partials(comm.rank()).size());
  SFFN_CHECK(out.numel() == owned[static_cast<size_t>(comm.rank())].count, "out has ", out.numel(),
             " elements, owned are ", owned[static_cast<size_t>(comm.rank())].count);
  const ArenaScope scope(scratch);
  Exchange exchange(stream, comm, scratch, tree, partials, owned, out.dtype(), exchange_bytes);
  exchange.run(out);
}

int64_t tree_exchange_rounds(const SumTree& tree, int rank, std::span<const FlatRange> owned, DType dtype,
                             size_t exchange_bytes) {
  return tree.partials(rank).empty() ? 0 : Pieces(tree, owned, dtype, exchange_bytes).rounds;
}

double tree_sum(std::span<const double> leaves) {
  std::vector<Valued<double>> stack;
  const auto count = static_cast<int64_t>(leaves.size());
  for (int64_t leaf = 0; leaf < count; ++leaf) {
    push_node(stack, {{0, leaf}, leaves[static_cast<size_t>(leaf)]}, count,
              [](auto& left, const auto& right) { left.value += right.value; });
  }
  return stack.empty() ? 0.0 : stack[0].value;
}

}  // namespace sffn
