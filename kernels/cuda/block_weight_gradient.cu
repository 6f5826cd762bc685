// dW_i += Σ over the sorted rows p of block i of weight(p)·h[p]ᵀ·x[token of p]
//                                               dW [M,D] f32  h [P,G]  x [N,D] f32 or bf16  weights [N,b] f32, or
//                                               absent
// A block of threads owns a tile of cells and columns of one block and goes over all its rows in order, chunk after
// chunk: nothing is added twice, and dW is read and written once. Any type and size: 64 × 64 by fp32 multiply-adds.
// bf16 whose rows are whole 16 bytes: 64 × 128 on tensor cores, 32 rows at a time, three stages of asynchronous copies;
// 8 warps have 32 × 32 results each. There weight·h, a float, is the sum of three bf16, so that it enters unrounded.
#include "kernels/cuda/block_rows.cuh"
#include "kernels/cuda/float_tile.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/ops.h"

#include <type_traits>

namespace sffn::cuda {
namespace {

constexpr int kCells = 64, kColumns = 128, kDepth = 32, kStages = 3, kThreads = 256, kSplits = 3;

template <class T>
struct Gradient {
  float* dw;
  const T* h;
  const float* weights;
  const T* x;
  BlockRows rows;
  int64_t chunks, G, D, parts, strips;  // parts of cells, strips of columns
};

// What a block of threads owns: cells [cell, G) of a block and columns [d, D), as far as its tile reaches.
struct Tile {
  int64_t block, cell, d;
};
template <class T>
__device__ __forceinline__ Tile tile_of(const Gradient<T>& g, int cells, int columns) {
  const int64_t part = blockIdx.x / g.strips;
  return {part / g.parts, part % g.parts * cells, blockIdx.x % g.strips * columns};
}

template <class T>
__global__ void __launch_bounds__(kTileThreads) weight_gradient_kernel(Gradient<T> g) {
  __shared__ FloatTile tile;
  __shared__ int32_t token[kTileDepth];
  __shared__ float weight[kTileDepth];
  const Tile at = tile_of(g, kTile, kTile);
  RowWalk walk{at.block, g.chunks};
  int64_t first = 0;
  int count = 0;
  bool any = false;
  TileSum sum = {};
  while (walk.next(g.rows, kTileDepth, first, count)) {
    any = true;
    __syncthreads();
    if (const int me = static_cast<int>(threadIdx.x); me < count) {
      const int32_t choice = g.rows.order[first + me];
      token[me] = token_of_choice(g.rows, choice);
      weight[me] = g.weights != nullptr ? g.weights[choice] : 1.0f;
    }
    __syncthreads();
    fill_across(tile.a, [&](int j, int k) {
      const bool exists = k < count && at.cell + j < g.G;
      return exists ? weight[k] * to_float(g.h[(first + k) * g.G + at.cell + j]) : 0.0f;
    });
    fill_across(tile.b, [&](int d, int k) {
      return k < count && at.d + d < g.D ? to_float(g.x[token[k] * g.D + at.d + d]) : 0.0f;
    });
    __syncthreads();
    add_products(sum, tile);
  }
  if (!any) return;
  for (int r = 0; r < 4; ++r) {
    for (int c = 0; c < 4; ++c) {
      const int64_t cell = at.cell + tile_row(r), d = at.d + tile_column(c);
      if (cell < g.G && d < g.D) g.dw[(at.block * g.G + cell) * g.D + d] += sum[r][c];
    }
  }
}

struct Stage {  // shared. 8 rows of a matrix lie in 32 different banks
  alignas(16) bfloat16 h[kDepth][kCells + 8], x[kDepth][kColumns + 8];
  float weight[kDepth];
};

// Asks for `count` rows of both factors; what does not exist is zero.
__device__ __forceinline__ void ask(Stage& stage, const Gradient<bfloat16>& g, const Tile& at, int64_t first,
                                    int count) {
  constexpr int kPiecesH = kCells / 8, kPiecesX = kColumns / 8;
  const int me = static_cast<int>(threadIdx.x);
  for (int e = me; e < kDepth * kPiecesH; e += kThreads) {
    const int k = e / kPiecesH, j = e % kPiecesH * 8;
    const bool copied = k < count && at.cell + j < g.G;
    copy_async<16>(&stage.h[k][j], copied ? g.h + (first + k) * g.G + at.cell + j : g.h, copied);
  }
  for (int e = me; e < kDepth * kPiecesX; e += kThreads) {
    const int k = e / kPiecesX, d = e % kPiecesX * 8;
    const bool copied = k < count && at.d + d < g.D;
    const int64_t token = copied ? token_of_choice(g.rows, g.rows.order[first + k]) : 0;
    copy_async<16>(&stage.x[k][d], copied ? g.x + token * g.D + at.d + d : g.x, copied);
  }
  if (g.weights != nullptr && me < kDepth) {
    const bool copied = me < count;
    copy_async<4>(&stage.weight[me], copied ? g.weights + g.rows.order[first + me] : g.weights, copied);
  }
}

// Two neighbours of h times their weights, as the sum of kSplits pairs of bf16: 8 bits each of the product's 24.
__device__ __forceinline__ void split(uint32_t (&parts)[kSplits], uint32_t pair, float low_weight, float high_weight) {
  float low = low_weight * __uint_as_float(pair << 16), high = high_weight * __uint_as_float(pair & 0xffff0000u);
  for (int i = 0; i < kSplits; ++i) {
    const bfloat16 low_part(low), high_part(high);
    parts[i] = low_part.bits | static_cast<uint32_t>(high_part.bits) << 16;
    low -= static_cast<float>(low_part), high -= static_cast<float>(high_part);
  }
}

template <bool kWeighted>
__device__ __forceinline__ void add_stage(FragmentC (&sum)[2][4], const Stage& stage, int row, int column) {
  constexpr int kParts = kWeighted ? kSplits : 1;
  const int t = lane_of_warp() % 4;
  for (int k = 0; k < kDepth; k += 16) {
    FragmentB b[2][2];
    for (int j = 0; j < 2; ++j) load_b_columns_transposed(b[j], &stage.x[k][column + 16 * j], kColumns + 8);
    for (int i = 0; i < 2; ++i) {
      FragmentA a[kParts];
      load_a_transposed(a[0], &stage.h[k][row + 16 * i], kCells + 8);
      if constexpr (kWeighted) {
        for (int e = 0; e < 4; ++e) {
          const float* weight = &stage.weight[k + 2 * t + e / 2 * 8];
          uint32_t parts[kSplits];
          split(parts, a[0].pair[e], weight[0], weight[1]);
          for (int s = 0; s < kSplits; ++s) a[s].pair[e] = parts[s];
        }
      }
      for (int j = 0; j < 4; ++j) {
        for (int s = 0; s < kParts; ++s) multiply_add(sum[i][j], a[s], b[j / 2][j % 2]);
      }
    }
  }
}

__device__ __forceinline__ void write_sums(const Gradient<bfloat16>& g, const FragmentC (&sum)[2][4], const Tile& at,
                                           int row, int column) {
  const int lane = lane_of_warp();
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 4; ++j) {
      for (int half = 0; half < 2; ++half) {
        const int64_t cell = at.cell + row + 16 * i + lane / 4 + 8 * half, d = at.d + column + 8 * j + lane % 4 * 2;
        if (cell >= g.G || d >= g.D) continue;
        auto* to = reinterpret_cast<float2*>(g.dw + (at.block * g.G + cell) * g.D + d);
        const float2 before = *to;
        *to = make_float2(before.x + sum[i][j].at[2 * half], before.y + sum[i][j].at[2 * half + 1]);
      }
    }
  }
}

template <bool kWeighted>
__global__ void __launch_bounds__(kThreads) weight_gradient_on_tensor_cores_kernel(Gradient<bfloat16> g) {
  auto* stages = dynamic_shared<Stage>();
  const Tile at = tile_of(g, kCells, kColumns);
  const int warp = static_cast<int>(threadIdx.x) / 32, row = warp / 4 * 32, column = warp % 4 * 32;
  const bool useful = at.cell + row < g.G && at.d + column < g.D;  // for this warp
  RowWalk walk{at.block, g.chunks};
  int64_t first = 0, asked = 0;
  int count = 0;
  for (int s = 0; s < kStages - 1; ++s) {
    if (walk.next(g.rows, kDepth, first, count)) ask(stages[asked++], g, at, first, count);
    commit_copies();
  }
  FragmentC sum[2][4] = {};
  for (int64_t s = 0; s < asked; ++s) {
    wait_for_copies<kStages - 2>();
    __syncthreads();  // stage s is there, and all have done with stage s - 1
    if (walk.next(g.rows, kDepth, first, count)) ask(stages[asked++ % kStages], g, at, first, count);
    commit_copies();
    if (useful) add_stage<kWeighted>(sum, stages[s % kStages], row, column);
  }
  if (useful && asked > 0) write_sums(g, sum, at, row, column);
}

template <class T>
void weight_gradient(Stream& stream, Gradient<T> g) {
  const auto grid = [&](int cells, int columns) {
    g.parts = (g.G + cells - 1) / cells, g.strips = (g.D + columns - 1) / columns;
    return static_cast<unsigned>(g.rows.blocks * g.parts * g.strips);
  };
  if (g.rows.choices() == 0) return;
  // dW is f32, read and written: instead of a table of T.
  const int64_t cells = g.rows.blocks * g.G;
  const Work work = block_product_work<T>(g.rows, g.G, g.D,
                                          bytes_for<float>(2 * cells * g.D) - bytes_for<T>(cells * g.D) +
                                              (g.weights != nullptr ? bytes_for<float>(g.rows.choices()) : 0));
  if constexpr (std::is_same_v<T, bfloat16>) {
    if (packs_fit(g.G, 8, g.h) && packs_fit(g.D, 8, g.x, g.dw)) {
      const unsigned blocks = grid(kCells, kColumns);
      launch(stream,
             g.weights != nullptr ? weight_gradient_on_tensor_cores_kernel<true>
                                  : weight_gradient_on_tensor_cores_kernel<false>,
             {blocks, kThreads, kStages * sizeof(Stage)}, work, g);
      return;
    }
  }
  const unsigned blocks = grid(kTile, kTile);
  launch(stream, weight_gradient_kernel<T>, {blocks, kTileThreads}, work, g);
}

}  // namespace

void block_weight_gradient(Stream& stream, Tensor dw, const Tensor& h, const Tensor& weights, const Tensor& x,
                           const BlockRouting& routing) {
  const BlockRows rows(routing);
  with_activation_type("block_weight_gradient", x, [&]<class T>(T) {
    weight_gradient(stream, Gradient<T>{.dw = dw.data<float>(),
                                        .h = h.data<T>(),
                                        .weights = weights.data_or_null<float>(),
                                        .x = x.data<T>(),
                                        .rows = rows,
                                        .chunks = rows.chunks(),
                                        .G = h.cols(),
                                        .D = x.cols(),
                                        .parts = 0,
                                        .strips = 0});
  });
}

}  // namespace sffn::cuda
