// What the ways to z[p] = x[token of p]·W_iᵀ + bias_i (block_project.cu) have in common, and the one for blocks of one
// cell: the product of two rows.
#pragma once
#include "kernels/cuda/activation.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/row_tiles.cuh"
#include "kernels/cuda/single_cells.cuh"

#include <type_traits>

namespace sffn::cuda {

struct NoActivation {};  // in place of an activation's functions: there is no h
template <class F>
inline constexpr bool kActivates = !std::is_same_v<F, NoActivation>;

template <class T>
struct Projection {
  T *h, *z;  // one of them may be null
  const T *x, *w;
  const float* bias;
  const T* gate;  // null: none
  BlockRows rows;
  TileList list;
  int G, D, parts, part;  // parts of the cells of a block, cells of one
  bool packs;             // rows of h, z, gate and bias are whole 16 bytes
};

// z, and h, at element e of both.
template <class F, class T>
__device__ __forceinline__ void write_sum(const Projection<T>& p, int64_t e, float sum) {
  T z;
  store(z, sum);
  if (p.z != nullptr) p.z[e] = z;
  if constexpr (kActivates<F>) {
    const bool gated = p.gate != nullptr;
    const float f = F::value(to_float(gated ? p.gate[e] : z));
    store(p.h[e], gated ? f * to_float(z) : f);
  }
}

namespace cells {

inline constexpr int kRowsAtOnce = 4;

// products[u] = ⟨x[token[u]], W[cell[u]]⟩, in an order that D fixes, in all lanes. Neighbours of one cell share its row
// of W.
template <int kCount, class T>
__device__ __forceinline__ void multiply_rows(float (&products)[kRowsAtOnce], const Projection<T>& p,
                                              const int32_t (&token)[kRowsAtOnce], const int32_t (&cell)[kRowsAtOnce]) {
  SFFN_UNROLL for (int u = 0; u < kRowsAtOnce; ++u) products[u] = 0;
  const int64_t D = p.D;
  for (int64_t d = threadIdx.x % 32 * kCount; d < D; d += 32 * kCount) {
    Columns<kCount, T> x[kRowsAtOnce], w[kRowsAtOnce];
    SFFN_UNROLL for (int u = 0; u < kRowsAtOnce; ++u) x[u] = columns_at<kCount>(p.x + token[u] * D + d);
    SFFN_UNROLL for (int u = 0; u < kRowsAtOnce; ++u) {
      if (u > 0 && cell[u] == cell[u - 1]) {
        w[u] = w[u - 1];
      } else {
        w[u] = columns_at<kCount>(p.w + cell[u] * D + d);
      }
    }
    SFFN_UNROLL for (int u = 0; u < kRowsAtOnce; ++u) {
      const auto left = std::bit_cast<Pack<T, kCount>>(x[u]), right = std::bit_cast<Pack<T, kCount>>(w[u]);
      SFFN_UNROLL for (int k = 0; k < kCount; ++k) products[u] += to_float(left.at[k]) * to_float(right.at[k]);
    }
  }
  SFFN_UNROLL for (int u = 0; u < kRowsAtOnce; ++u) products[u] = warp_sum(products[u]);
}

// A warp has 32 sorted rows, and all its lanes multiply one after another; then each lane writes the sum of its row. So
// rows of W are read about once and those of x, of which there are fewer, gathered.
template <class F, int kCount, class T>
__global__ void __launch_bounds__(kThreads, 3) project_cells_kernel(Projection<T> p, int64_t pairs) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t first = (int64_t{blockIdx.x} * kWarps + threadIdx.x / 32) * 32, left = p.rows.offsets[pairs] - first;
  if (left <= 0) return;
  const int32_t my_cell = cell_of_row(p.rows, pairs, first);
  const int32_t my_token = my_cell >= 0 ? token_of_choice(p.rows, p.rows.order[first + lane]) : 0;
  const int count = left < 32 ? static_cast<int>(left) : 32;
  float sum = 0;
  for (int r = 0; r < count; r += kRowsAtOnce) {
    int32_t token[kRowsAtOnce], cell[kRowsAtOnce];
    SFFN_UNROLL for (int u = 0; u < kRowsAtOnce; ++u) {
      const int row = r + u < count ? r + u : count - 1;  // the last one again, for nobody
      token[u] = __shfl_sync(0xffffffffu, my_token, row), cell[u] = __shfl_sync(0xffffffffu, my_cell, row);
    }
    float products[kRowsAtOnce];
    multiply_rows<kCount>(products, p, token, cell);
    SFFN_UNROLL for (int u = 0; u < kRowsAtOnce; ++u) sum = lane == r + u ? products[u] : sum;
  }
  if (my_cell >= 0) write_sum<F>(p, first + lane, sum + (p.bias != nullptr ? p.bias[my_cell] : 0.0f));
}

template <class F, class T>
void project(Stream& stream, const Projection<T>& p, double further_bytes) {
  const int64_t P = p.rows.choices(), pairs = pairs_of(p.rows), D = p.D;
  const Work work = work_of<T>(p.rows, D, bytes_for<T>(D), further_bytes + bytes_for<int32_t>(pairs));
  launch(
      stream,
      packs_fit(D, kPackCount<T>, p.x, p.w) ? project_cells_kernel<F, kPackCount<T>, T> : project_cells_kernel<F, 1, T>,
      {blocks_for(P, kThreads), kThreads}, work, p, pairs);
}

}  // namespace cells

}  // namespace sffn::cuda
