// Tokens that choose blocks, sorted by block on the host by the definition of BlockRouting, and the tensors of the ops
// over sorted rows in one dtype.
#pragma once
#include "kernels/ops.h"
#include "support/complex_step.h"
#include "support/host_tensor.h"

#include <algorithm>
#include <string>
#include <vector>

namespace sffn::test {

// Who chooses what: spread over all blocks but one, everybody the last, or every third choice dropped.
enum class Choice { kSpread, kOneBlock, kSomeDropped };

struct BlockSizes {
  int64_t N, D, B, G, b, chunk;
  Choice choice = Choice::kSpread;

  int64_t P() const { return N * b; }
  int64_t M() const { return B * G; }
  std::string str() const {
    return cat("N ", N, ", D ", D, ", B ", B, ", G ", G, ", b ", b, ", chunk ", chunk, ", choice ",
               static_cast<int>(choice));
  }
};

// [N·b], ascending in each token, -1 for dropped choices.
inline std::vector<int32_t> chosen_blocks(const BlockSizes& s) {
  std::vector<int32_t> blocks;
  for (int64_t n = 0; n < s.N; ++n) {
    // b of the B - 1 blocks beside block B/2, which stays empty; all where b = B
    std::vector<std::pair<uint32_t, int32_t>> ranked;
    for (int64_t i = 0; i < s.B; ++i) {
      if (i == s.B / 2 && s.b < s.B) continue;
      ranked.emplace_back(static_cast<uint32_t>(random_bits({21, static_cast<uint64_t>(n)}, static_cast<uint64_t>(i))),
                          static_cast<int32_t>(i));
    }
    std::sort(ranked.begin(), ranked.end());
    std::vector<int32_t> mine;
    for (int64_t i = 0; i < s.b; ++i) {
      mine.push_back(s.choice == Choice::kOneBlock ? static_cast<int32_t>(s.B - s.b + i) : ranked[i].second);
    }
    std::sort(mine.begin(), mine.end());
    for (int64_t i = 0; i < s.b; ++i) {
      if (s.choice == Choice::kSomeDropped && (n + i) % 3 == 0) mine[i] = -1;
    }
    blocks.insert(blocks.end(), mine.begin(), mine.end());
  }
  return blocks;
}

struct HostRouting {
  HostTensor order, inverse, offsets;

  HostRouting(const BlockSizes& s, const std::vector<int32_t>& blocks) {
    std::vector<int32_t> order_of, inverse_of(blocks.size(), -1), offsets_of = {0};
    for (int64_t first = 0; first < s.N; first += s.chunk) {
      for (int64_t i = 0; i < s.B; ++i) {
        for (int64_t c = first * s.b; c < std::min(s.N, first + s.chunk) * s.b; ++c) {
          if (blocks[c] != i) continue;
          inverse_of[c] = static_cast<int32_t>(order_of.size());
          order_of.push_back(static_cast<int32_t>(c));
        }
        offsets_of.push_back(static_cast<int32_t>(order_of.size()));
      }
    }
    order_of.resize(blocks.size(), -1);
    order = HostTensor::indices(order_of);
    inverse = HostTensor::indices(inverse_of);
    offsets = HostTensor::indices(offsets_of);
    blocks_ = s.B, per_token_ = s.b, chunk_ = s.chunk;
  }
  BlockRouting tensors() const { return {order, inverse, offsets, blocks_, per_token_, chunk_}; }

 private:
  int64_t blocks_, per_token_, chunk_;
};

}  // namespace sffn::test
