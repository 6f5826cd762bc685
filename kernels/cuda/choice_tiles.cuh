// Ranking the choices blocks [N,b] in their order, without cursors that threads share: tiles of choices are counted by
// block (a warp a tile), the counts of earlier tiles of a group are summed, and every tile is walked from there, 32
// choices at a time; lanes that chose the same block rank themselves by their place in the warp.
#pragma once
#include "kernels/cuda/counter.cuh"
#include "kernels/cuda/match.cuh"
#include "kernels/cuda/reduce.cuh"

#include <algorithm>

namespace sffn::cuda {

struct ChoiceTiles {
  int64_t choices, group, blocks;  // the last group may be short
  int64_t tile, tiles_per_group, groups;

  ChoiceTiles(int64_t choice_count, int64_t group_size, int64_t block_count)
      : choices(choice_count), group(std::max<int64_t>(1, group_size)), blocks(block_count) {
    constexpr int64_t kLeast = 1024;
    tile = std::max(kLeast, 2 * blocks);  // so that the counts of a tile cost no more than its choices
    tiles_per_group = (std::min(group, choices) + tile - 1) / tile;
    groups = (choices + group - 1) / group;
  }
  __host__ __device__ int64_t count() const { return groups * tiles_per_group; }
  __host__ __device__ int64_t first_of(int64_t t) const {
    return t / tiles_per_group * group + t % tiles_per_group * tile;
  }
  __host__ __device__ int64_t end_of(int64_t t) const {
    int64_t end = t / tiles_per_group * group + group;
    if (end > choices) end = choices;
    return first_of(t) + tile < end ? first_of(t) + tile : end;
  }
};

inline constexpr int kTileWarps = 8;  // of a block, a tile each
inline constexpr int64_t kMostSharedBlocks = (48 << 10) / (kTileWarps * sizeof(int32_t));

template <bool kShared>
__device__ __forceinline__ int32_t* numbers_of_tile(int32_t* of_tiles, const ChoiceTiles& tiles, int64_t tile) {
  if (kShared) return dynamic_shared<int32_t>() + threadIdx.x / 32 * tiles.blocks;
  return of_tiles + tile * tiles.blocks;
}

// counts[t,i] = choices of block i in tile t
template <bool kShared>
__global__ void count_tiles_kernel(int32_t* counts, const int32_t* blocks, ChoiceTiles tiles) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t tile = int64_t{blockIdx.x} * kTileWarps + threadIdx.x / 32;
  if (tile >= tiles.count()) return;
  int32_t* of_tile = numbers_of_tile<kShared>(counts, tiles, tile);
  for (int64_t i = lane; i < tiles.blocks; i += 32) of_tile[i] = 0;
  __syncwarp();
  for (int64_t c = tiles.first_of(tile) + lane; c < tiles.end_of(tile); c += 32) {
    if (blocks[c] >= 0) atomicAdd(&of_tile[blocks[c]], 1);
  }
  __syncwarp();
  for (int64_t i = lane; kShared && i < tiles.blocks; i += 32) counts[tile * tiles.blocks + i] = of_tile[i];
}

// counts[t,i] becomes start[group,i] (null: 0) + the counts of block i in earlier tiles of the group. A block of
// threads has 32 columns of one group, each cut into 32 runs of tiles.
template <class Count>
__global__ void scan_tiles_kernel(Count* counts, const Count* start, ChoiceTiles tiles, int64_t strips) {
  constexpr int kRuns = 32;
  __shared__ Count of_run[kRuns][32];
  const int64_t group = blockIdx.x / strips, i = blockIdx.x % strips * 32 + threadIdx.x;
  const int64_t run = (tiles.tiles_per_group + kRuns - 1) / kRuns, first = threadIdx.y * run;
  const int64_t last = first + run < tiles.tiles_per_group ? first + run : tiles.tiles_per_group;
  Count* column = counts + group * tiles.tiles_per_group * tiles.blocks + i;
  Count total = 0;
  if (i < tiles.blocks) {
    for (int64_t t = first; t < last; ++t) total += column[t * tiles.blocks];
  }
  of_run[threadIdx.y][threadIdx.x] = total;
  __syncthreads();
  if (i >= tiles.blocks) return;
  total = start != nullptr ? start[group * tiles.blocks + i] : 0;
  for (unsigned r = 0; r < threadIdx.y; ++r) total += of_run[r][threadIdx.x];
  for (int64_t t = first; t < last; ++t) {
    const Count here = column[t * tiles.blocks];
    column[t * tiles.blocks] = total;
    total += here;
  }
}

// place(c, block, p) for every choice c, where p counts from next[tile, block] in the order of choices (0 for a block
// of -1); it returns the events to count.
template <bool kShared, class Place>
__global__ void walk_tiles_kernel(int32_t* next, const int32_t* blocks, ChoiceTiles tiles, int bits, Place place,
                                  EventCount* events) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int64_t tile = int64_t{blockIdx.x} * kTileWarps + threadIdx.x / 32;
  if (tile >= tiles.count()) return;
  int32_t* of_tile = numbers_of_tile<kShared>(next, tiles, tile);
  for (int64_t i = lane; kShared && i < tiles.blocks; i += 32) of_tile[i] = next[tile * tiles.blocks + i];
  __syncwarp();
  int32_t counted = 0;
  const int64_t last = tiles.end_of(tile);
  for (int64_t first = tiles.first_of(tile); first < last; first += 32) {
    const int64_t c = first + lane;
    const int32_t block = c < last ? blocks[c] : -1;
    const unsigned lanes = lanes_of_block(block, bits);
    const int32_t rank = __popc(lanes & lanes_below()), base = block >= 0 ? of_tile[block] : 0;
    __syncwarp();  // all have read
    if (block >= 0 && rank == 0) of_tile[block] = base + __popc(lanes);
    if (c < last) counted += place(c, block, base + rank);
    __syncwarp();
  }
  if (events == nullptr) return;
  counted = warp_sum(counted);
  if (lane == 0 && counted > 0) atomicAdd(events, static_cast<EventCount>(counted));
}

// counts: room for tiles.count()·tiles.blocks numbers. placed: bytes that `place` writes in all.
template <class Place>
void walk_choices(Stream& stream, int32_t* counts, const int32_t* blocks, const ChoiceTiles& tiles,
                  const int32_t* start, Place place, double placed, EventCount* events) {
  const bool shared = tiles.blocks <= kMostSharedBlocks;
  const size_t bytes = shared ? kTileWarps * static_cast<size_t>(tiles.blocks) * sizeof(int32_t) : 0;
  const LaunchShape shape{blocks_for(tiles.count(), kTileWarps), 32 * kTileWarps, bytes};
  const int64_t strips = (tiles.blocks + 31) / 32;
  const double of_counts = bytes_for<int32_t>(tiles.count() * tiles.blocks),
               of_choices = bytes_for<int32_t>(tiles.choices);
  const double of_start = start != nullptr ? bytes_for<int32_t>(tiles.groups * tiles.blocks) : 0;
  launch(stream, shared ? count_tiles_kernel<true> : count_tiles_kernel<false>, shape, Work{of_choices + of_counts},
         counts, blocks, tiles);
  launch(stream, scan_tiles_kernel<int32_t>, {blocks_for(strips * tiles.groups, 1), dim3(32, 32)},
         Work{2 * of_counts + of_start}, counts, start, tiles, strips);
  launch(stream, shared ? walk_tiles_kernel<true, Place> : walk_tiles_kernel<false, Place>, shape,
         Work{of_choices + of_counts + placed}, counts, blocks, tiles, bits_of(tiles.blocks), place, events);
}

}  // namespace sffn::cuda
