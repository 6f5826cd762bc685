// The sorted rows of a BlockRouting on the device, whose offsets only the device knows. Grids are as large as the worst
// routing needs; blocks of threads find their rows from the offsets.
#pragma once
#include "kernels/block_rows.h"
#include "kernels/cuda/work.h"

#include <cuda_runtime.h>

namespace sffn::cuda {

// A pair is one block of one chunk of tokens, chunk·B + block.
inline int64_t pairs_of(const BlockRows& rows) { return rows.chunks() * rows.blocks; }

// Of the product between G cells of a block, D columns, and the rows that chose it: as if nobody dropped a choice. The
// tables [B·G,D] and the rows of tokens [N,D] move once, as do those of choices [P,G].
template <class T>
Work block_product_work(const BlockRows& rows, int64_t G, int64_t D, double further_bytes) {
  const double of_choices = bytes_for<T>(rows.choices() * G) + bytes_for<int32_t>(rows.choices());
  const double of_tables = bytes_for<T>((rows.blocks * G + rows.tokens) * D);
  return {of_choices + of_tables + further_bytes, flops_of(rows.choices(), G, D), kOnTensorCores<T>};
}

struct RowTile {
  int64_t block, first, last;  // sorted rows; none where last <= first
};

// Tiles of kRows rows of one pair. Those of pair q take the slots from ⌊offsets[q] / kRows⌋ + q on: pair q + 1 begins
// at ⌊(offsets[q] + n) / kRows⌋ + q + 1, and ⌊o / R⌋ + ⌈n / R⌉ <= ⌊(o + n) / R⌋ + 1, so that no two tiles have one
// slot.
template <int kRows>
inline int64_t tile_slots(const BlockRows& rows) {
  return rows.choices() / kRows + pairs_of(rows);
}

// All lanes of a warp call it: 32 pairs are tried at once.
template <int kRows>
__device__ __forceinline__ RowTile tile_of_slot(const BlockRows& rows, int64_t pairs, int64_t slot) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int64_t low = 0, high = pairs;  // the last pair that begins at slot or before is in [low, high)
  while (high - low > 1) {
    const int64_t step = (high - low + 31) / 32, q = low + lane * step;
    const bool before = q < high && rows.offsets[q] / kRows + q <= slot;
    const int count = __popc(__ballot_sync(0xffffffffu, before));
    low += (count - 1) * step;
    high = low + step < high ? low + step : high;
  }
  const int64_t first = rows.offsets[low] + (slot - (rows.offsets[low] / kRows + low)) * kRows;
  const int64_t end = rows.offsets[low + 1];
  return {low % rows.blocks, first, first + kRows < end ? first + kRows : end};
}

// The rows of one block through all chunks, some at a time.
struct RowWalk {
  int64_t block, chunks, chunk = -1, row = 0, end = 0;

  // At most `most` rows from `first` on, of one chunk; false when there are no more.
  __device__ __forceinline__ bool next(const BlockRows& rows, int most, int64_t& first, int& count) {
    while (row >= end) {
      if (++chunk >= chunks) return false;
      row = rows.offsets[chunk * rows.blocks + block];
      end = rows.offsets[chunk * rows.blocks + block + 1];
    }
    first = row;
    count = row + most < end ? most : static_cast<int>(end - row);
    row += most;
    return true;
  }
};

__device__ __forceinline__ int32_t token_of_choice(const BlockRows& rows, int32_t choice) {
  return static_cast<int32_t>(static_cast<unsigned>(choice) / static_cast<unsigned>(rows.per_token));
}

}  // namespace sffn::cuda
