// What the ways to dW_i += Σ weight(p)·h[p]ᵀ·x[token of p] (block_weight_gradient.cu) have in common, and the one on
// the tensor cores of sm_90a.
#pragma once
#include "kernels/cuda/block_rows.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/panel.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace sffn::cuda::gradient {

template <class T>
struct Gradient {
  float* dw;
  const T* h;
  const float* weights;
  const T* x;
  BlockRows rows;
  int64_t pairs;
  int G, D, parts, strips;  // parts of cells, strips of columns
};

// What a block of threads owns: cells [cell, G) of a block and columns [d, D), as far as its tile reaches.
struct Tile {
  int64_t slot;  // the block, or one of its pieces
  int cell, d;
};
template <class T>
__device__ __forceinline__ Tile tile_of(const Gradient<T>& g, int cells, int columns) {
  const unsigned strips = g.strips, parts = g.parts, part = blockIdx.x / strips;
  return {part / parts, static_cast<int>(part % parts) * cells, static_cast<int>(blockIdx.x % strips) * columns};
}

template <class T>
void cut(Gradient<T>& g, int cells, int columns) {
  g.parts = (g.G + cells - 1) / cells, g.strips = (g.D + columns - 1) / columns;
}

inline constexpr int kThreads = 256;  // on tensor cores

// Blocks in pieces of `rows` rows; starts[i]: rows of the blocks before block i. Piece k > 0 of block i has slot
// ⌊starts[i] / rows⌋ + k - 1 of partial: as ⌊s / R⌋ + ⌈n / R⌉ - 1 <= ⌊(s + n) / R⌋, no two pieces have one slot.
struct Pieces {
  const int32_t* starts;
  float* partial;  // [slots, G·D]
  int32_t rows;
};

struct Piece {
  int32_t block, index;  // index -1: none
};

// starts[i] = rows of blocks before i, through all chunks, i <= B; starts[B]: of all
template <int kBlockThreads>
__global__ void __launch_bounds__(kBlockThreads) block_starts_kernel(int32_t* starts, BlockRows rows, int64_t pairs) {
  const int64_t i = int64_t{blockIdx.x} * kBlockThreads + threadIdx.x;
  if (i > rows.blocks) return;
  int32_t before = 0;
  for (int64_t first = 0; first < pairs; first += rows.blocks) before += rows.offsets[first + i] - rows.offsets[first];
  starts[i] = before;
}

// Workspace for partial sums of `size` floats in all, and starts.
inline void prepare(Stream& stream, Pieces& pieces, const BlockRows& rows, int64_t size) {
  pieces.partial = workspace<float>(stream, size + rows.blocks + 1), pieces.starts = rows.offsets;
  if (rows.chunks() < 2) return;
  auto* starts = reinterpret_cast<int32_t*>(pieces.partial + size);
  launch(stream, block_starts_kernel<kThreads>, {blocks_for(rows.blocks + 1, kThreads), kThreads},
         Work{bytes_for<int32_t>(pairs_of(rows) + rows.blocks + 1)}, starts, rows, pairs_of(rows));
  pieces.starts = starts;
}

// Pieces of block i take the slots from ⌊starts[i] / rows⌋ + i on. All lanes of a warp call it.
__device__ __forceinline__ Piece piece_of_slot(const Pieces& pieces, int64_t blocks, int64_t slot) {
  const auto block =
      static_cast<int32_t>(last_before(blocks, [&](int64_t i) { return pieces.starts[i] / pieces.rows + i <= slot; }));
  const int32_t start = pieces.starts[block], index = static_cast<int32_t>(slot) - (start / pieces.rows + block);
  return {block, start + int64_t{index} * pieces.rows < pieces.starts[block + 1] ? index : -1};
}

// Steps of kDepth rows; both factors across the depth of the product.
template <int kCells_, int kColumns_, int kDepth_>
struct Stage {  // shared
  static constexpr int kCells = kCells_, kColumns = kColumns_, kDepth = kDepth_;
  bfloat16 h[(kCells + kPanelWidth - 1) / kPanelWidth][kDepth * kPanelWidth];
  bfloat16 x[kColumns / kPanelWidth][kDepth * kPanelWidth];
  float weight[kDepth];
  float unused[kPanelAlignment / sizeof(float) - kDepth];
};

// The rows of a piece, kDepth at a time. A thread copies the same pieces of every kStep-th row of a step; the choices
// of its next rows are read one step ahead.
template <class Stage>
class Factors {
 public:
  __device__ __forceinline__ Factors(const Gradient<bfloat16>& g, const Tile& at, const Piece& piece, int32_t rows)
      : g_(g), cell_(at.cell), d_(at.d), walk_(g.rows, piece.block, piece.index * rows, rows) {
    advance();
  }
  // Asks for the next step, if there is one; what does not exist is zero.
  __device__ __forceinline__ bool ask(Stage& stage) {
    if (count_ == 0) return false;
    const int column = static_cast<int>(threadIdx.x) % kPanelPieces * kPiece;
    SFFN_UNROLL for (int i = 0; i < kRows; ++i) {
      const int row = row_of_thread() + i * kStep;
      const bool exists = row < count_;
      const bfloat16* h = g_.h + int64_t{walk_.row() - count_ + row} * g_.G + cell_ + column;
      const bfloat16* x = g_.x + int64_t{token_of_choice(g_.rows, choice_[i])} * g_.D + d_ + column;
      SFFN_UNROLL for (int j = 0; j < Stage::kCells; j += kPanelWidth) {
        const bool inside = j + column < Stage::kCells && cell_ + j + column < g_.G;
        copy_async<16>(piece_at(stage.h[j / kPanelWidth], row, column / kPiece), h + j, exists && inside);
      }
      SFFN_UNROLL for (int j = 0; j < Stage::kColumns; j += kPanelWidth) {
        copy_async<16>(piece_at(stage.x[j / kPanelWidth], row, column / kPiece), x + j,
                       exists && d_ + j + column < g_.D);
      }
      if (g_.weights != nullptr && column == 0) {
        copy_async<4>(&stage.weight[row], exists ? g_.weights + choice_[i] : g_.weights, exists);
      }
    }
    advance();
    return true;
  }

 private:
  static constexpr int kStep = kThreads / kPanelPieces, kRows = Stage::kDepth / kStep;

  static __device__ __forceinline__ int row_of_thread() { return static_cast<int>(threadIdx.x) / kPanelPieces; }
  __device__ __forceinline__ void advance() {
    count_ = walk_.next(g_.rows, g_.pairs, Stage::kDepth);
    SFFN_UNROLL for (int i = 0; i < kRows; ++i) {
      const int row = row_of_thread() + i * kStep;
      choice_[i] = row < count_ ? g_.rows.order[walk_.row() - count_ + row] : 0;
    }
  }

  const Gradient<bfloat16>& g_;
  int cell_, d_;
  RowWalk walk_;
  int32_t count_ = 0, choice_[kRows];
};

// Where the sum of a piece goes, [G,D]: to the block's rows of dW, which are added to, or a partial sum.
__device__ __forceinline__ float* sum_of_piece(const Gradient<bfloat16>& g, const Pieces& pieces, const Piece& piece) {
  const int64_t size = int64_t{g.G} * g.D;
  const int32_t slot = pieces.starts[piece.block] / pieces.rows + piece.index - 1;
  return piece.index == 0 ? g.dw + piece.block * size : pieces.partial + slot * size;
}

// A warp writes 16 cells from `cell` on and 8·kN columns.
template <int kN>
__device__ __forceinline__ void write_sums(float* to, const Gradient<bfloat16>& g, const FragmentC (&sum)[kN], bool add,
                                           int cell, int column) {
  const int lane = lane_of_warp();
  SFFN_UNROLL for (int half = 0; half < 2; ++half) {
    SFFN_UNROLL for (int j = 0; j < kN; ++j) {
      const int c = cell + lane / 4 + 8 * half, d = column + 8 * j + lane % 4 * 2;
      if (c >= g.G || d >= g.D) continue;
      auto* pair = reinterpret_cast<float2*>(to + int64_t{c} * g.D + d);
      const float2 before = add ? *pair : make_float2(0, 0);
      const float* at = sum[j].at + half * 2;
      *pair = make_float2(before.x + at[0], before.y + at[1]);
    }
  }
}

// ---- On the tensor cores of sm_90a ----

// A tile of kCells x 256 among two warpgroups: 64 cells and all columns each, or all 64 cells and half the columns.
template <int kCells>
struct GroupCut {
  static constexpr int kColumns = 256, kStages = 4, kOwnColumns = kCells == 64 ? kColumns / 2 : kColumns;
  using Stage = gradient::Stage<kCells, kColumns, 64>;
};

template <int kCells>
__global__ void __launch_bounds__(kThreads, 1)
    weight_gradient_on_warpgroups_kernel(Gradient<bfloat16> g, Pieces pieces) {
#if SFFN_WGMMA
  using C = GroupCut<kCells>;
  using Stage = typename C::Stage;
  auto* stages = panels_of_block<Stage>();
  const Tile at = tile_of(g, kCells, C::kColumns);
  const Piece piece = piece_of_slot(pieces, g.rows.blocks, at.slot);
  if (piece.index < 0) return;
  const int group = static_cast<int>(threadIdx.x) / 128, warp = static_cast<int>(threadIdx.x) / 32 % 4;
  const int panel_h = kCells == 64 ? 0 : group, column = kCells == 64 ? group * C::kOwnColumns : 0;
  Factors<Stage> factors(g, at, piece, pieces.rows);
  int left = 0;  // steps asked for and not multiplied
  SFFN_UNROLL for (int s = 0; s < C::kStages - 2; ++s) {
    left += factors.ask(stages[s]) ? 1 : 0;
    commit_copies();
  }
  FragmentC sum[C::kOwnColumns / 8] = {};
  wait_for_products<0>(sum);  // else ptxas may write zeros behind the first products
  for (int stage = 0; left > 0; --left) {
    wait_for_copies<C::kStages - 3>();
    publish_copies();
    __syncthreads();  // this step is there, and no warpgroup multiplies the one before the last any more
    const Stage& of = stages[stage];
    begin_products();
    SFFN_UNROLL for (int k = 0; k < Stage::kDepth; k += 16) {
      add_products<true, true>(sum, describe_across(of.h[panel_h], sizeof of.h[0], k),
                               describe_across(of.x[column / kPanelWidth], sizeof of.x[0], k));
    }
    commit_products();
    left += factors.ask(stages[(stage + C::kStages - 2) % C::kStages]) ? 1 : 0;
    commit_copies();
    wait_for_products<1>(sum);
    stage = (stage + 1) % C::kStages;
  }
  wait_for_products<0>(sum);
  write_sums(sum_of_piece(g, pieces, piece), g, sum, piece.index == 0, at.cell + panel_h * 64 + warp * 16,
             at.d + column);
#else
  __trap();  // the host asks for it where it is compiled
#endif
}

}  // namespace sffn::cuda::gradient
