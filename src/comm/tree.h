// Sums over the leaves (micro-batches) of a global step that do not depend on how many ranks share them. The leaves
// 0..M-1 are summed by a binary tree whose shape depends on M alone:
//   node (level l, index i) = Σ of leaves [i·2^l, (i+1)·2^l) ∩ [0, M) = its left child + its right child,
// a child without leaves being skipped, not added as zero. A rank folds its contiguous leaves into the largest nodes
// that lie within them; the owners of flat ranges finish the tree over the ranks' nodes. a + b = b + a bit for bit, so
// only the association counts.
#pragma once
#include "comm/communicator.h"
#include "core/arena.h"
#include "core/stream.h"

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace sffn {

struct LeafRange {
  int64_t first = 0, last = 0;  // [first, last)
};
struct FlatRange {
  int64_t offset = 0, count = 0;
};
struct TreeNode {
  int level = 0;
  int64_t index = 0;
  bool operator==(const TreeNode&) const = default;
};

// Shares of `leaves` as equal as they can be: rank r of R gets [rM/R, (r+1)M/R).
std::vector<LeafRange> split_leaves(int64_t leaves, int ranks);

// Who adds what: a plan, the same on all ranks.
class SumTree {
 public:
  // shares[r]: the leaves of rank r; in rank order they cover [0, M). With deterministic = false every rank adds its
  // leaves one after another into one buffer, and the tree is over the ranks: less memory, bits that depend on them.
  explicit SumTree(std::vector<LeafRange> shares, bool deterministic = true);

  int ranks() const { return static_cast<int>(shares_.size()); }
  LeafRange share(int rank) const { return shares_[static_cast<size_t>(rank)]; }
  bool deterministic() const { return deterministic_; }
  int64_t leaves() const { return leaves_; }  // of the tree: ranks that have any when not deterministic
  // The nodes rank holds after its last leaf, in order of leaves.
  const std::vector<TreeNode>& partials(int rank) const { return partials_[static_cast<size_t>(rank)]; }
  // Gradient buffers rank needs at most at once, the one being written included.
  int64_t buffers(int rank) const { return buffers_[static_cast<size_t>(rank)]; }

 private:
  std::vector<LeafRange> shares_;
  bool deterministic_;
  int64_t leaves_ = 0;
  std::vector<std::vector<TreeNode>> partials_;
  std::vector<int64_t> buffers_;
};

// Folds one rank's leaves within exactly tree.buffers(rank) flat buffers of one shape and type.
//   fold.start(); for each leaf: write_gradient(fold.next(stream)); fold.push(stream);
// then fold.partials() are the values of tree.partials(rank).
class TreeFold {
 public:
  TreeFold(const SumTree& tree, int rank, std::vector<Tensor> buffers);
  void start();          // forgets everything: a new step
  Tensor next(Stream&);  // where the next leaf's gradient accumulates; zero, or the sum so far when not deterministic
  void push(Stream&);    // the leaf is complete
  std::vector<Tensor> partials() const;  // RunError before the last leaf was pushed

 private:
  struct Held {
    TreeNode node;
    size_t buffer;
  };
  int64_t tree_leaves_;
  bool deterministic_;
  LeafRange share_;
  size_t expected_partials_;
  std::vector<Tensor> buffers_;
  std::vector<size_t> free_;
  std::vector<Held> held_;
  int64_t leaf_ = 0;
  bool writing_ = false;
};

// out = Σ of all leaves over the flat range owned[rank].  Collective.
// partials: this rank's values of tree.partials(rank), flat [n] each, of one type (f32, f64, c128); overwritten. owned:
// one range a rank, the same list on all. out [owned[rank].count]; may be that very range of partials[0]. Goes in
// pieces of pieces of
// bounded size: scratch holds at most about exchange_bytes. Reads nothing on the host.
inline constexpr size_t kTreeExchangeBytes = size_t{32} << 20;
// What serves so many ranks: the more there are the more messages a piece is cut into, which must not become so short
// that only their latency counts.
inline size_t tree_exchange_bytes(int ranks) {
  constexpr size_t kOfRank = size_t{1} << 20, kMost = size_t{1} << 30;
  return std::clamp(static_cast<size_t>(ranks) * kOfRank, kTreeExchangeBytes, kMost);
}
void tree_reduce_scatter(Stream& stream, Communicator& comm, Arena& scratch, const SumTree& tree, Tensor out,
                         std::span<const Tensor> partials, std::span<const FlatRange> owned, size_t exchange_bytes);
// In how many pieces rank sends its nodes to each owner. On the meta device, where this number would be all that tells
// one piece from the next, they go as one.
int64_t tree_exchange_rounds(const SumTree& tree, int rank, std::span<const FlatRange> owned, DType dtype,
                             size_t exchange_bytes);

// The same tree on host values: losses, squared norms. 0 without leaves.
double tree_sum(std::span<const double> leaves);

}  // namespace sffn
