// block_weight_gradient over blocks of one cell: dW[i] += Σ over the rows p of cell i of (weight(p)·h[p])·x[token of p]
// A thread has a strip's columns of one cell and adds its rows in order, chunk after chunk: as long as most cells are,
// that is all. What a popular cell has beyond a first piece is cut into further ones (Pieces), for other threads:
//   cell_gradient    dW[i] += the first piece's sum;  partial[slot of k] = the k-th piece's, k > 0
//   add_pieces       dW[i] += Σ_k partial[slot of k], in order
#pragma once
#include "kernels/cuda/block_weight_gradient.cuh"
#include "kernels/cuda/single_cells.cuh"

#include <algorithm>

namespace sffn::cuda::cells {

using gradient::Gradient, gradient::Piece, gradient::Pieces;

// The piece k > 0 whose partial sum has this slot. Those of cell i are slots from ⌊starts[i] / rows⌋ on, all before
// those of the next cell: it is the last cell whose slots begin at it or before, if it has so many rows.
__device__ __forceinline__ Piece piece_of_partial(const Pieces& pieces, int64_t cells, int64_t slot) {
  int64_t low = 0, high = cells - 1;
  while (low < high) {
    const int64_t middle = (low + high + 1) / 2;
    pieces.starts[middle] / pieces.rows <= slot ? low = middle : high = middle - 1;
  }
  const int64_t start = pieces.starts[low], index = slot - start / pieces.rows + 1;
  return {static_cast<int32_t>(low),
          start + index * pieces.rows < pieces.starts[low + 1] ? static_cast<int32_t>(index) : -1};
}

inline constexpr int kGradientRows = 8;  // at once

// sum += the rows of a walk in order; false: there are none.
template <int kCount, class T>
__device__ __forceinline__ bool add_rows(float (&sum)[kCount], const Gradient<T>& g, RowWalk walk, int64_t d) {
  const T* x = g.x + d;
  const int64_t D = g.D;
  bool any = false;
  while (const int32_t count = walk.next(g.rows, g.pairs, kGradientRows)) {
    const int32_t first = walk.row() - count;
    int32_t choice[kGradientRows];
    float factor[kGradientRows];
    Columns<kCount, T> columns[kGradientRows];
    SFFN_UNROLL for (int u = 0; u < kGradientRows; ++u) {
      choice[u] = u < count ? g.rows.order[first + u] : 0;
      factor[u] = u < count ? to_float(g.h[first + u]) : 0.0f;
    }
    SFFN_UNROLL for (int u = 0; u < kGradientRows; ++u) {
      if (u < count) columns[u] = columns_at<kCount>(x + token_of_choice(g.rows, choice[u]) * D);
      if (u < count && g.weights != nullptr) factor[u] *= g.weights[choice[u]];
    }
    SFFN_UNROLL for (int u = 0; u < kGradientRows; ++u) {
      if (u < count) add_columns<T>(sum, factor[u], columns[u]);
    }
    any = true;
  }
  return any;
}

// to += sum
template <int kCount>
__device__ __forceinline__ void add_to(float* to, const float (&sum)[kCount]) {
  float total[kCount];
  load_floats(total, to);
  SFFN_UNROLL for (int k = 0; k < kCount; ++k) total[k] += sum[k];
  store_floats(to, total);
}

// The first pieces of all cells, then those of `slots` partial sums.
template <int kCount, class T>
__global__ void __launch_bounds__(kThreads, 3) cell_gradient_kernel(Gradient<T> g, Pieces pieces, int64_t slots) {
  const auto [unit, d] = strip_of_thread<kCount>(g.strips);
  const int64_t cells = g.rows.blocks, slot = unit - cells;
  if (slot >= slots || d >= g.D) return;
  const Piece piece = slot < 0 ? Piece{static_cast<int32_t>(unit), 0} : piece_of_partial(pieces, cells, slot);
  if (piece.index < 0) return;
  float sum[kCount] = {};
  const bool any = add_rows(sum, g, RowWalk(g.rows, piece.block, piece.index * pieces.rows, pieces.rows), d);
  if (slot >= 0) {
    store_floats(pieces.partial + slot * g.D + d, sum);
  } else if (any) {
    add_to(g.dw + unit * g.D + d, sum);
  }
}

// The threads of a cell's first partial sum add all of them.
template <int kCount>
__global__ void __launch_bounds__(kThreads)
    add_pieces_kernel(float* dw, Pieces pieces, int64_t cells, int64_t slots, int64_t D, unsigned strips) {
  const auto [slot, d] = strip_of_thread<kCount>(strips);
  if (slot >= slots || d >= D) return;
  const Piece piece = piece_of_partial(pieces, cells, slot);
  if (piece.index != 1) return;
  const int64_t count = (pieces.starts[piece.block + 1] - pieces.starts[piece.block] - 1) / pieces.rows;
  const float* partial = pieces.partial + slot * D + d;
  float sum[kCount] = {};
  for (int64_t k = 0; k < count; k += kGradientRows) {
    Columns<kCount, float> of_piece[kGradientRows];
    SFFN_UNROLL for (int u = 0; u < kGradientRows; ++u) {
      if (k + u < count) of_piece[u] = columns_at<kCount>(partial + (k + u) * D);
    }
    SFFN_UNROLL for (int u = 0; u < kGradientRows; ++u) {
      if (k + u < count) add_columns<float>(sum, 1.0f, of_piece[u]);
    }
  }
  add_to(dw + piece.block * D + d, sum);
}

// Rows of a piece: few beside what a device has at once, many beside the two rows that a partial sum costs, and so many
// that all partial sums stay small.
inline int32_t rows_of_piece(int64_t P, int64_t D) {
  constexpr int64_t kLeastPiece = 512, kMost = int64_t{1} << 30, kPartialBytes = int64_t{256} << 20;
  const int64_t bytes = P * D * static_cast<int64_t>(sizeof(float));
  return static_cast<int32_t>(std::clamp((bytes + kPartialBytes - 1) / kPartialBytes, kLeastPiece, kMost));
}

template <class T>
void weight_gradient(Stream& stream, Gradient<T> g) {
  const int64_t P = g.rows.choices(), D = g.D, cells = g.rows.blocks;
  Pieces pieces{.starts = nullptr, .partial = nullptr, .rows = rows_of_piece(P, D)};
  const int64_t slots = P / pieces.rows;
  if (slots > 0) prepare(stream, pieces, g.rows, slots * D);
  const double further = bytes_for<int32_t>(g.pairs) + (g.weights != nullptr ? bytes_for<float>(P) : 0);
  const Work work = work_of<T>(g.rows, D, bytes_for<float>(2 * D), further);
  const auto run = [&]<int kCount>(std::integral_constant<int, kCount>) {
    g.strips = static_cast<int>(strips_of(D, kCount));
    launch(stream, cell_gradient_kernel<kCount, T>, shape_of_strips(cells + slots, D, kCount), work, g, pieces, slots);
  };
  constexpr int kCount = kPackCount<T>, kFloats = kPackCount<float>;
  packs_fit(D, kCount, g.x, g.dw) ? run(std::integral_constant<int, kCount>()) : run(std::integral_constant<int, 1>());
  if (slots == 0) return;
  const int count = packs_fit(D, kFloats, g.dw) ? kFloats : 1;
  launch(stream, count == 1 ? add_pieces_kernel<1> : add_pieces_kernel<kFloats>, shape_of_strips(slots, D, count),
         Work{bytes_for<int32_t>(cells)}, g.dw, pieces, cells, slots, D, strips_of(D, count));
}

}  // namespace sffn::cuda::cells
