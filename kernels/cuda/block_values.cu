// block_weight_sums:  sums[s,i] = Σ of the weights of block i over the tokens of group s    sums [S,B]  weights [N,b]
// add_block_values:   out[n,i] += per_block[s, blocks[n,i]] (not for -1)                    out [N,b]  per_block [S,B]
// Sums are in double, in the order of choices: a warp adds a tile of choices, 32 at a time, to sums of its own, in
// shared memory where they fit. The first lane of those that chose the same block adds for all. Tiles are then added in
// order.
#include "kernels/cuda/choice_tiles.cuh"
#include "kernels/cuda/sum_rows.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace {

constexpr int kThreads = 256, kWarps = 4;
constexpr int64_t kMostShared = (44 << 10) / (kWarps * sizeof(double));  // blocks

template <bool kShared>
__global__ void sum_tiles_kernel(double* partial, const float* weights, const int32_t* blocks, ChoiceTiles tiles,
                                 int bits) {
  __shared__ float values[kWarps][32];
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int64_t tile = int64_t{blockIdx.x} * kWarps + warp;
  if (tile >= tiles.count()) return;
  double* out = partial + tile * tiles.blocks;
  double* sums = kShared ? dynamic_shared<double>() + warp * tiles.blocks : out;
  for (int64_t i = lane; i < tiles.blocks; i += 32) sums[i] = 0;
  const int64_t last = tiles.end_of(tile);
  for (int64_t first = tiles.first_of(tile); first < last; first += 32) {
    const int64_t c = first + lane;
    const int32_t block = c < last ? blocks[c] : -1;
    values[warp][lane] = block >= 0 ? weights[c] : 0.0f;
    const unsigned lanes = lanes_of_block(block, bits);
    __syncwarp();
    if (block >= 0 && (lanes & lanes_below()) == 0) {
      double sum = sums[block];
      for (unsigned rest = lanes; rest != 0; rest &= rest - 1) {
        sum += static_cast<double>(values[warp][__ffs(static_cast<int>(rest)) - 1]);
      }
      sums[block] = sum;
    }
    __syncwarp();
  }
  for (int64_t i = lane; kShared && i < tiles.blocks; i += 32) out[i] = sums[i];
}

__global__ void add_block_values_kernel(float* out, const float* per_block, const int32_t* blocks, int64_t choices,
                                        int64_t group, int64_t B) {
  const int64_t c = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (c < choices && blocks[c] >= 0) out[c] += per_block[c / group * B + blocks[c]];
}

}  // namespace

void block_weight_sums(Stream& stream, Tensor sums, const Tensor& weights, const Tensor& blocks) {
  const int64_t groups = sums.rows(), B = sums.cols();
  const ChoiceTiles tiles(blocks.numel(), blocks.numel() / groups, B);
  auto* partial = workspace<double>(stream, tiles.count() * B);
  const bool shared = B <= kMostShared;
  const size_t bytes = shared ? kWarps * static_cast<size_t>(B) * sizeof(double) : 0;
  launch(stream, shared ? sum_tiles_kernel<true> : sum_tiles_kernel<false>,
         {blocks_for(tiles.count(), kWarps), 32 * kWarps, bytes},
         Work{bytes_of(weights, blocks) + bytes_for<double>(tiles.count() * B)}, partial, weights.data<float>(),
         blocks.data<int32_t>(), tiles, bits_of(B));
  sum_partials(stream, sums.data<float>(), partial, groups, tiles.tiles_per_group, B);
}

void add_block_values(Stream& stream, Tensor out, const Tensor& per_block, const Tensor& blocks) {
  const int64_t choices = blocks.numel();
  launch(stream, add_block_values_kernel, {blocks_for(choices, kThreads), kThreads},
         Work{bytes_of(out, out, per_block, blocks)}, out.data<float>(), per_block.data<float>(),
         blocks.data<int32_t>(), choices, choices / per_block.rows(), per_block.cols());
}

}  // namespace sffn::cuda
