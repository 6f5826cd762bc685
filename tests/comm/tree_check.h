// One global step's gradient sum, done by any number of ranks from leaves that are functions of their index alone.
#pragma once
#include "comm/tree.h"

#include <cstdint>
#include <vector>

namespace sffn::test {

struct TreeCase {
  std::vector<LeafRange> shares;
  int64_t flat = 0;  // elements of a gradient
  bool deterministic = true;
  bool out_in_partial = false;  // the result goes to the first partial's own range
  size_t exchange_bytes = kTreeExchangeBytes;
};

// Element i of the gradient of a leaf.
double leaf_value(int64_t leaf, int64_t i);

// The whole summed gradient, on every rank. Each rank runs within tree.buffers(rank) buffers full of NaN, and within a
// scratch arena of the size that the same call takes on the meta device.
template <class T>
std::vector<T> summed_gradient(Communicator& comm, const TreeCase& c);

// Ranges of uneven length, some of them empty.
std::vector<FlatRange> uneven_ranges(int64_t flat, int ranks);

}  // namespace sffn::test
