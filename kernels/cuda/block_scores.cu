// scores[n,i] = mean | min | max | mean of |·| of cells[n, i·G … i·G+G-1]; NaN if one of them is      cells [N,B·G]
// dcells = its gradient: 1/G; 1 at the first cell that attains the minimum or maximum (the first NaN); sign/G
// A block of cells lies together: a few lanes, a power of two about G/4, or a warp, have it, so that a warp reads
// neighbours. The extreme cell is the largest of the numbers (order of the value, NaN above all; then the lower place).
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/score_key.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace {

constexpr int kThreads = 256;
using Rank = unsigned long long;  // a type of shuffles

struct Cut {
  int64_t rows, G;  // N·B blocks of G cells
  int lane_bits;    // of the lanes of a block
  __host__ __device__ int lanes() const { return 1 << lane_bits; }
};

__device__ __forceinline__ Rank rank_of(float cell, int64_t j, BlockAggregate aggregate) {
  const uint32_t key = score_key(aggregate == BlockAggregate::kMin ? -cell : cell);
  return Rank{key} << 32 | (0xffffffffu - static_cast<uint32_t>(j));
}
__device__ __forceinline__ int64_t place_of(Rank rank) { return 0xffffffffu - static_cast<uint32_t>(rank); }

template <BlockAggregate kAggregate>
inline constexpr bool kExtreme = kAggregate == BlockAggregate::kMin || kAggregate == BlockAggregate::kMax;

// The place of the extreme cell, for all lanes of its block. Called by whole warps; lanes behind the last block have no
// cells.
template <BlockAggregate kAggregate>
__device__ int64_t extreme_place(const float* block, int64_t first, const Cut& cut, bool inside) {
  Rank best = 0;
  for (int64_t j = first; inside && j < cut.G; j += cut.lanes()) {
    const Rank rank = rank_of(block[j], j, kAggregate);
    best = rank > best ? rank : best;
  }
  for (int lanes = cut.lanes() / 2; lanes > 0; lanes /= 2) {
    const Rank other = __shfl_xor_sync(0xffffffffu, best, lanes);
    best = other > best ? other : best;
  }
  return place_of(best);
}

template <BlockAggregate kAggregate>
__global__ void block_scores_forward_kernel(float* scores, const float* cells, Cut cut) {
  const int64_t thread = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t r = thread >> cut.lane_bits, first = thread & (cut.lanes() - 1);
  const bool inside = r < cut.rows;
  const float* block = cells + r * cut.G;
  float score = 0;
  if constexpr (kExtreme<kAggregate>) {
    const int64_t place = extreme_place<kAggregate>(block, first, cut, inside);
    if (inside && first == 0) score = block[place];
  } else {
    for (int64_t j = first; inside && j < cut.G; j += cut.lanes()) {
      score += kAggregate == BlockAggregate::kMeanAbs ? fabsf(block[j]) : block[j];
    }
    for (int lanes = cut.lanes() / 2; lanes > 0; lanes /= 2) score += __shfl_xor_sync(0xffffffffu, score, lanes);
    score /= static_cast<float>(cut.G);
  }
  if (inside && first == 0) scores[r] = score;
}

template <BlockAggregate kAggregate>
__global__ void block_scores_backward_kernel(float* dcells, const float* dscores, const float* cells, Cut cut) {
  const int64_t thread = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int64_t r = thread >> cut.lane_bits, first = thread & (cut.lanes() - 1);
  const bool inside = r < cut.rows;
  const float* block = cells + r * cut.G;
  int64_t place = -1;
  if constexpr (kExtreme<kAggregate>) place = extreme_place<kAggregate>(block, first, cut, inside);
  if (!inside) return;
  const float share = dscores[r] / static_cast<float>(cut.G);
  for (int64_t j = first; j < cut.G; j += cut.lanes()) {
    float d = share;
    if constexpr (kExtreme<kAggregate>) {
      d = j == place ? dscores[r] : 0.0f;
    } else if constexpr (kAggregate == BlockAggregate::kMeanAbs) {
      d = block[j] > 0 ? share : block[j] < 0 ? -share : 0.0f;
    }
    dcells[r * cut.G + j] = d;
  }
}

Cut cut_of(const Tensor& scores, const Tensor& cells) {
  const int64_t G = cells.cols() / scores.cols();
  int lane_bits = 0;
  while (lane_bits < 5 && int64_t{4} << lane_bits < G) ++lane_bits;
  return {scores.numel(), G, lane_bits};
}
LaunchShape shape_for(const Cut& cut) { return {blocks_for(cut.rows, kThreads / cut.lanes()), kThreads}; }

}  // namespace

void block_scores_forward(Stream& stream, Tensor scores, const Tensor& cells, BlockAggregate aggregate) {
  const Cut cut = cut_of(scores, cells);
  const auto run = [&](auto kernel) {
    launch(stream, kernel, shape_for(cut), Work{bytes_of(scores, cells)}, scores.data<float>(), cells.data<float>(),
           cut);
  };
  switch (aggregate) {
    case BlockAggregate::kMin:
      return run(block_scores_forward_kernel<BlockAggregate::kMin>);
    case BlockAggregate::kMax:
      return run(block_scores_forward_kernel<BlockAggregate::kMax>);
    case BlockAggregate::kMeanAbs:
      return run(block_scores_forward_kernel<BlockAggregate::kMeanAbs>);
    default:
      return run(block_scores_forward_kernel<BlockAggregate::kMean>);
  }
}

void block_scores_backward(Stream& stream, Tensor dcells, const Tensor& dscores, const Tensor& cells,
                           BlockAggregate aggregate) {
  const Cut cut = cut_of(dscores, cells);
  const Work work{bytes_of(dcells, dscores) + (aggregate != BlockAggregate::kMean ? bytes_of(cells) : 0)};
  const auto run = [&](auto kernel) {
    launch(stream, kernel, shape_for(cut), work, dcells.data<float>(), dscores.data<float>(), cells.data<float>(), cut);
  };
  switch (aggregate) {
    case BlockAggregate::kMin:
      return run(block_scores_backward_kernel<BlockAggregate::kMin>);
    case BlockAggregate::kMax:
      return run(block_scores_backward_kernel<BlockAggregate::kMax>);
    case BlockAggregate::kMeanAbs:
      return run(block_scores_backward_kernel<BlockAggregate::kMeanAbs>);
    default:
      return run(block_scores_backward_kernel<BlockAggregate::kMean>);
  }
}

}  // namespace sffn::cuda
