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

// The last i of [0, count) with before(i), which holds for 0 and for all up to some i. All lanes of a warp call it: 32
// numbers are tried at once.
template <class Before>
__device__ __forceinline__ int64_t last_before(int64_t count, Before&& before) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int64_t low = 0, high = count;  // it is in [low, high)
  while (high - low > 1) {
    const int64_t step = (high - low + 31) / 32, i = low + lane * step;
    const int found = __popc(__ballot_sync(0xffffffffu, i < high && before(i)));
    low += (found - 1) * step;
    high = low + step < high ? low + step : high;
  }
  return low;
}

template <int kRows>
__device__ __forceinline__ RowTile tile_of_slot(const BlockRows& rows, int64_t pairs, int64_t slot) {
  const int64_t q = last_before(pairs, [&](int64_t pair) { return rows.offsets[pair] / kRows + pair <= slot; });
  const int64_t first = rows.offsets[q] + (slot - (rows.offsets[q] / kRows + q)) * kRows, end = rows.offsets[q + 1];
  return {q % rows.blocks, first, first + kRows < end ? first + kRows : end};
}

// The rows of one block through all chunks, some at a time: all of them, or at most `most` behind the first `skipped`.
class RowWalk {
 public:
  __device__ __forceinline__ explicit RowWalk(const BlockRows& rows, int64_t block, int32_t skipped = 0,
                                              int32_t most = INT32_MAX)
      : pair_(static_cast<int32_t>(block - rows.blocks)), skipped_(skipped), left_(most) {}

  // How many rows come next: at most `most`, of one chunk; 0 when there are no more. `pairs`: of the routing.
  __device__ __forceinline__ int32_t next(const BlockRows& rows, int64_t pairs, int32_t most) {
    while (row_ >= end_) {
      pair_ += static_cast<int32_t>(rows.blocks);
      if (pair_ >= pairs) return 0;
      row_ = rows.offsets[pair_] + skipped_, end_ = rows.offsets[pair_ + 1];
      skipped_ = row_ > end_ ? row_ - end_ : 0;
    }
    const int32_t there = end_ - row_ < left_ ? end_ - row_ : left_, count = there < most ? there : most;
    row_ += count, left_ -= count;
    return count;
  }
  // Behind the rows that came last.
  __device__ __forceinline__ int32_t row() const { return row_; }

 private:
  int32_t pair_, skipped_, left_, row_ = 0, end_ = 0;
};

__device__ __forceinline__ int32_t token_of_choice(const BlockRows& rows, int32_t choice) {
  return static_cast<int32_t>(static_cast<unsigned>(choice) / static_cast<unsigned>(rows.per_token));
}

}  // namespace sffn::cuda
