// Choices of blocks in the order of their blocks, and the words of routing ops.
#pragma once
#include "core/tensor.h"

#include <cstdint>

namespace sffn {

// How one value stands for a block of cells: over the keys of a block (element-wise), or over the scores of its cells
// (the first four).
enum class BlockAggregate : uint8_t { kMean, kMin, kMax, kMeanAbs, kL2Mean, kValueWeighted, kFirstPc };

// Weight of a chosen block from its logit: σ(l), softmax over all blocks, softmax over the chosen blocks.
enum class Gate : uint8_t { kSigmoid, kSoftmax, kSoftmaxChosen };

// Extra losses over the blocks of a layer (methods.md section 4).
enum class BalanceLoss : uint8_t { kSwitch, kEntropy, kCv2 };

// Sign of the duals inside the iterations of the sinkhorn op: textbook, or as the code of arXiv 2310.10837 has it.
enum class Sinkhorn : uint8_t { kTextbook, kAsPublished };

// N tokens choose b of B blocks each. The P = N·b choices n·b + i are sorted by (chunk of tokens, block, choice), so
// that the rows of one block lie together; "sorted row p" below means place p of that order. Dropped choices have no
// sorted row; the rows behind the last one are unused.
struct BlockRouting {
  Tensor order;    // [P] i32: sorted row -> choice; unused rows hold -1
  Tensor inverse;  // [P] i32: choice -> sorted row; -1 where the choice was dropped
  Tensor offsets;  // [C·B + 1] i32: rows of block i of chunk c are [offsets[c·B + i], offsets[c·B + i + 1])
  int64_t blocks = 0, per_token = 0;  // B, b
  int64_t chunk = 0;                  // tokens of a chunk; C = ⌈N / chunk⌉
};

}  // namespace sffn
