// Σ of leaves by the binary tree whose node (level, i) has the children (level - 1, 2i) and (level - 1, 2i + 1); one
// without a right child is that child. The tree of comm/tree.h, level by level.
#pragma once
#include <cstdint>
#include <vector>

namespace sffn::ref {

// out[c] = Σ_leaf x[leaf, c]; 0 without leaves.
inline void tree_sum(double* out, const double* x, int64_t leaves, int64_t columns) {
  std::vector<double> nodes(static_cast<size_t>(leaves));
  for (int64_t c = 0; c < columns; ++c) {
    for (int64_t leaf = 0; leaf < leaves; ++leaf) nodes[static_cast<size_t>(leaf)] = x[leaf * columns + c];
    for (size_t count = nodes.size(); count > 1; count = (count + 1) / 2) {
      for (size_t i = 0; i + 1 < count; i += 2) nodes[i / 2] = nodes[i] + nodes[i + 1];
      if (count % 2 == 1) nodes[count / 2] = nodes[count - 1];
    }
    out[c] = leaves > 0 ? nodes[0] : 0.0;
  }
}

}  // namespace sffn::ref
