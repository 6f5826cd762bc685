// What the block products over blocks of one cell (G = 1) have in common: y is a weighted sum of rows of W, z the
// product of two rows, dW a weighted sum of rows of x. All of them gather rows of D columns and do little else, so a
// thread has 16 bytes of a row, and asks for several rows before it uses the first. Where rows are not whole 16 bytes
// it has one column. kCount: columns of a thread.
#pragma once
#include "kernels/cuda/block_rows.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/row_lanes.cuh"

#include <bit>
#include <cmath>
#include <type_traits>

namespace sffn::cuda::cells {

inline constexpr int kThreads = kRowThreads, kWarps = kThreads / 32;

// Rows of D columns in strips of up to 32 threads; the strips of one row are neighbours. A narrow row has a part of a
// warp.
inline unsigned strips_of(int64_t D, int count) { return blocks_for((D + count - 1) / count, 32); }
inline LaunchShape shape_of_strips(int64_t rows, int64_t D, int count) {
  return shape_of_rows(rows * strips_of(D, count), (D + count - 1) / count, 32);
}

struct Strip {
  int64_t row, d;  // columns [d, d + kCount)
};
template <int kCount>
__device__ __forceinline__ Strip strip_of_thread(unsigned strips) {
  const int64_t strip = row_of_thread();
  return {strip / strips, (strip % strips * blockDim.x + threadIdx.x) * kCount};
}

// Columns of a row as they are stored: 16 bytes in words, as the compiler would hold each bf16 in a register of its own
// where a load is conditional.
template <int kCount, class T>
using Columns = std::conditional_t<kCount == 1, Pack<T, 1>, uint4>;

template <int kCount, class T>
__device__ __forceinline__ Columns<kCount, T> columns_at(const T* from) {
  return *reinterpret_cast<const Columns<kCount, T>*>(from);
}

// sum += factor·columns
template <class T, int kCount>
__device__ __forceinline__ void add_columns(float (&sum)[kCount], float factor, const Columns<kCount, T>& columns) {
  const auto pack = std::bit_cast<Pack<T, kCount>>(columns);
  SFFN_UNROLL for (int k = 0; k < kCount; ++k) sum[k] += factor * to_float(pack.at[k]);
}

// The cell of sorted row first + lane; -1 behind the last row. All lanes of a warp call it, with one `first`. `pairs`:
// of the routing. The pair of a row is the last that begins at it or before; those of 32 rows lie close together.
__device__ __forceinline__ int32_t cell_of_row(const BlockRows& rows, int64_t pairs, int64_t first) {
  const int64_t row = first + threadIdx.x % 32, used = rows.offsets[pairs];
  if (first >= used) return -1;
  const int64_t last = first + 31 < used ? first + 31 : used - 1;
  int64_t low = last_before(pairs, [&](int64_t q) { return rows.offsets[q] <= first; });
  int64_t high = low + last_before(pairs - low, [&](int64_t q) { return rows.offsets[low + q] <= last; });
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    rows.offsets[middle] <= row ? low = middle : high = middle - 1;
  }
  return row < used ? static_cast<int32_t>(low % rows.blocks) : -1;
}

// Of B cells those that P choices name if all are equally popular.
inline double chosen_cells(const BlockRows& rows) {
  const auto B = static_cast<double>(rows.blocks);
  return B * -std::expm1(-static_cast<double>(rows.choices()) / B);
}

// As block_product_work, but of the table only rows that are chosen, of `row_bytes` each; the products are fp32
// multiply-adds, because a tensor core has nothing to share among rows of different cells.
template <class T>
Work work_of(const BlockRows& rows, int64_t D, double row_bytes, double further_bytes) {
  const double of_choices = bytes_for<T>(rows.choices()) + bytes_for<int32_t>(rows.choices());
  return {of_choices + bytes_for<T>(rows.tokens * D) + chosen_cells(rows) * row_bytes + further_bytes,
          flops_of(rows.choices(), D)};
}

}  // namespace sffn::cuda::cells
