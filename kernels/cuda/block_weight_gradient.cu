// dW_i += Σ over the sorted rows p of block i of weight(p)·h[p]ᵀ·x[token of p]
//                                               dW [M,D] f32  h [P,G]  x [N,D] f32 or bf16  weights [N,b] f32, or
//                                               absent
// A block of threads owns a tile of cells and columns of one block and goes over its rows in order, chunk after chunk.
// Any type and size: 64 × 64 by fp32 multiply-adds over all rows of the block, which dW gets at once.
// bf16 of 16 cells and more whose rows are whole 16 bytes: tensor cores, 128 × 128 or up to 64 × 256, 32 rows at a
// time, four stages of asynchronous copies; each of 8 warps has up to 64 × 32 results. There weight·h, a float, is the
// sum of three bf16, so that it enters unrounded. On sm_90a, without weights and from 33 cells on: 64 or 128 × 256, 64
// rows at a time (block_weight_gradient.cuh). The rows of a block are cut into pieces of a size that depends on
// shapes alone, so that a popular block keeps many blocks of threads busy:
//   weight_gradient  dW_i += the first piece's sum;  partial[slot of k] = the k-th piece's, k > 0
//   add_partials     dW_i += Σ_k partial[slot of k], in order
// One cell: cell_gradient.cuh.
#include "kernels/cuda/block_weight_gradient.cuh"
#include "kernels/cuda/cell_gradient.cuh"
#include "kernels/cuda/float_tile.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/panel.cuh"
#include "kernels/ops.h"

#include <algorithm>
#include <type_traits>

namespace sffn::cuda {
namespace {

using namespace gradient;

template <class T>
__global__ void __launch_bounds__(kTileThreads) weight_gradient_kernel(Gradient<T> g) {
  __shared__ FloatTile tile;
  __shared__ int32_t token[kTileDepth];
  __shared__ float weight[kTileDepth];
  const Tile at = tile_of(g, kTile, kTile);
  RowWalk walk(g.rows, at.slot);
  bool any = false;
  TileSum sum = {};
  while (const int32_t count = walk.next(g.rows, g.pairs, kTileDepth)) {
    const int32_t first = walk.row() - count;
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
      return exists ? weight[k] * to_float(g.h[int64_t{first + k} * g.G + at.cell + j]) : 0.0f;
    });
    fill_across(tile.b, [&](int d, int k) {
      return k < count && at.d + d < g.D ? to_float(g.x[int64_t{token[k]} * g.D + at.d + d]) : 0.0f;
    });
    __syncthreads();
    add_products(sum, tile);
  }
  if (!any) return;
  for (int r = 0; r < 4; ++r) {
    for (int c = 0; c < 4; ++c) {
      const int64_t cell = at.cell + tile_row(r), d = at.d + tile_column(c);
      if (cell < g.G && d < g.D) g.dw[(at.slot * g.G + cell) * g.D + d] += sum[r][c];
    }
  }
}

// ---- On tensor cores ----

constexpr int kDepth = 32, kStages = 4, kSplits = 3, kWarpColumns = 32;
constexpr int kLeastCells = 16;  // of a block

// A tile of kCells × kColumns among 8 warps.
template <int kCells>
struct Cut {
  static constexpr int kColumns = kCells == 128 ? 128 : 256, kWarpCells = kCells < 64 ? kCells : 64;
  static constexpr int kAcross = kColumns / kWarpColumns;
  using Stage = gradient::Stage<kCells, kColumns, kDepth>;
};

// What is left of two neighbours of weight·h.
struct Rest {
  float low, high;
};
// The next of kSplits pairs of bf16 whose sum it is: 8 bits each of its 24.
__device__ __forceinline__ uint32_t take_pair(Rest& rest) {
  const uint32_t pair = rounded_pair(rest.low, rest.high);
  rest.low -= low_of(pair), rest.high -= high_of(pair);
  return pair;
}

// The products of 16 rows from k on.
template <bool kWeighted, int kM, class Stage>
__device__ __forceinline__ void add_rows(FragmentC (&sum)[kM][4], const Stage& stage, int row, int column, int k) {
  const bfloat16 *h = stage.h[row / kPanelWidth], *x = stage.x[column / kPanelWidth];
  FragmentB b[2][2];
  SFFN_UNROLL for (int j = 0; j < 2; ++j) load_b_across(b[j], x, column % kPanelWidth + 16 * j, k);
  SFFN_UNROLL for (int i = 0; i < kM; ++i) {
    FragmentA a;
    load_a_across(a, h, row % kPanelWidth + 16 * i, k);
    Rest rest[4];
    SFFN_UNROLL for (int e = 0; e < 4 && kWeighted; ++e) {
      const float* weight = &stage.weight[k + lane_of_warp() % 4 * 2 + e / 2 * 8];
      rest[e] = {weight[0] * low_of(a.pair[e]), weight[1] * high_of(a.pair[e])};
    }
    SFFN_UNROLL for (int s = 0; s < (kWeighted ? kSplits : 1); ++s) {
      SFFN_UNROLL for (int e = 0; e < 4 && kWeighted; ++e) a.pair[e] = take_pair(rest[e]);
      SFFN_UNROLL for (int j = 0; j < 4; ++j) multiply_add(sum[i][j], a, b[j / 2][j % 2]);
    }
  }
}

template <bool kWeighted, int kM, class Stage>
__device__ __forceinline__ void add_stage(FragmentC (&sum)[kM][4], const Stage& stage, int row, int column) {
  if constexpr (kWeighted) {
    SFFN_NO_UNROLL for (int k = 0; k < kDepth; k += 16) add_rows<true>(sum, stage, row, column, k);
  } else {
    SFFN_UNROLL for (int k = 0; k < kDepth; k += 16) add_rows<false>(sum, stage, row, column, k);
  }
}

template <int kCells, bool kWeighted>
__global__ void __launch_bounds__(kThreads, 2)
    weight_gradient_on_tensor_cores_kernel(Gradient<bfloat16> g, Pieces pieces) {
  using C = Cut<kCells>;
  auto* stages = panels_of_block<typename C::Stage>();
  const Tile at = tile_of(g, kCells, C::kColumns);
  const Piece piece = piece_of_slot(pieces, g.rows.blocks, at.slot);
  if (piece.index < 0) return;
  const int warp = static_cast<int>(threadIdx.x) / 32, row = warp / C::kAcross * C::kWarpCells;
  const int column = warp % C::kAcross * kWarpColumns;
  const bool useful = at.cell + row < g.G && at.d + column < g.D;  // for this warp
  Factors<typename C::Stage> factors(g, at, piece, pieces.rows);
  FragmentC sum[C::kWarpCells / 16][4] = {};
  run_stages<kStages>([&](int stage) { return factors.ask(stages[stage]); },
                      [&](int stage) {
                        if (useful) add_stage<kWeighted>(sum, stages[stage], row, column);
                      });
  if (!useful) return;
  float* to = sum_of_piece(g, pieces, piece);
  SFFN_UNROLL for (int i = 0; i < C::kWarpCells / 16; ++i) {
    write_sums(to, g, sum[i], piece.index == 0, at.cell + row + 16 * i, at.d + column);
  }
}

// Pairs of elements of blocks of more than one piece, of which there are few: blocks of threads go over `span` blocks
// each, and `parts` of them share a block.
__global__ void __launch_bounds__(kThreads)
    add_partials_kernel(float* dw, Pieces pieces, int64_t pairs, int64_t blocks, unsigned span, unsigned parts) {
  const int64_t first = int64_t{blockIdx.x / parts} * span, end = first + span < blocks ? first + span : blocks;
  for (int64_t block = first; block < end; ++block) {
    const int64_t start = pieces.starts[block];
    const int64_t count = (pieces.starts[block + 1] - start + pieces.rows - 1) / pieces.rows;
    if (count < 2) continue;
    const auto* partial = reinterpret_cast<const float2*>(pieces.partial) + start / pieces.rows * pairs;
    auto* to = reinterpret_cast<float2*>(dw) + block * pairs;
    for (int64_t e = blockIdx.x % parts * kThreads + threadIdx.x; e < pairs; e += parts * kThreads) {
      float2 sum = partial[e];
      for (int64_t k = 1; k < count - 1; ++k) sum.x += partial[k * pairs + e].x, sum.y += partial[k * pairs + e].y;
      to[e] = make_float2(to[e].x + sum.x, to[e].y + sum.y);
    }
  }
}

// Twice what a block has if all are equally popular, but so many that all partial sums stay small.
int32_t rows_of_piece(const Gradient<bfloat16>& g) {
  constexpr int64_t kLeast = 1024, kMost = int64_t{1} << 30, kPartialBytes = int64_t{256} << 20;
  const int64_t P = g.rows.choices(), bytes = int64_t{g.G} * g.D * static_cast<int64_t>(sizeof(float));
  const int64_t rows = std::max({kLeast, 2 * P / g.rows.blocks, P * bytes / kPartialBytes});
  return static_cast<int32_t>((std::min(rows, kMost) + kDepth - 1) / kDepth * kDepth);
}

unsigned tiles_of(const Gradient<bfloat16>& g, const Pieces& pieces) {
  return static_cast<unsigned>((g.rows.choices() / pieces.rows + g.rows.blocks) * g.parts * g.strips);
}

template <int kCells>
void weight_gradient_on_tensor_cores(Stream& stream, Gradient<bfloat16> g, const Pieces& pieces, const Work& work) {
  cut(g, kCells, Cut<kCells>::kColumns);
  launch(stream,
         g.weights != nullptr ? weight_gradient_on_tensor_cores_kernel<kCells, true>
                              : weight_gradient_on_tensor_cores_kernel<kCells, false>,
         {tiles_of(g, pieces), kThreads, kStages * sizeof(typename Cut<kCells>::Stage) + kPanelAlignment}, work, g,
         pieces);
}

template <int kCells>
void weight_gradient_on_warpgroups(Stream& stream, Gradient<bfloat16> g, const Pieces& pieces, const Work& work) {
  using C = GroupCut<kCells>;
  cut(g, kCells, C::kColumns);
  launch(stream, weight_gradient_on_warpgroups_kernel<kCells>,
         {tiles_of(g, pieces), kThreads, C::kStages * sizeof(typename C::Stage) + kPanelAlignment}, work, g, pieces);
}

void on_tensor_cores(Stream& stream, const Gradient<bfloat16>& g, const Work& work) {
  Pieces pieces{.starts = nullptr, .partial = nullptr, .rows = rows_of_piece(g)};
  const int64_t slots = g.rows.choices() / pieces.rows, pairs = int64_t{g.G} * g.D / 2;
  prepare(stream, pieces, g.rows, slots * g.G * g.D);
  const bool warpgroups = native(stream).warpgroups && g.weights == nullptr && g.G > 32;
  const bool narrow = (g.G + 127) % 128 < 64;
  g.G <= 16             ? weight_gradient_on_tensor_cores<16>(stream, g, pieces, work)
  : g.G <= 32           ? weight_gradient_on_tensor_cores<32>(stream, g, pieces, work)
  : warpgroups&& narrow ? weight_gradient_on_warpgroups<64>(stream, g, pieces, work)
  : warpgroups          ? weight_gradient_on_warpgroups<128>(stream, g, pieces, work)
  : narrow              ? weight_gradient_on_tensor_cores<64>(stream, g, pieces, work)
                        : weight_gradient_on_tensor_cores<128>(stream, g, pieces, work);
  if (slots == 0) return;
  constexpr int64_t kMostParts = 512, kMostBlocks = 2048;  // of threads
  const int64_t blocks = g.rows.blocks, parts = std::min((pairs + kThreads - 1) / kThreads, kMostParts);
  const int64_t span = (blocks * parts + kMostBlocks - 1) / kMostBlocks, spans = (blocks + span - 1) / span;
  launch(stream, add_partials_kernel, {static_cast<unsigned>(spans * parts), kThreads},
         Work{bytes_for<int32_t>(blocks)}, g.dw, pieces, pairs, blocks, static_cast<unsigned>(span),
         static_cast<unsigned>(parts));
}

template <class T>
void weight_gradient(Stream& stream, Gradient<T> g) {
  if (g.rows.choices() == 0) return;
  if (g.G == 1) return cells::weight_gradient(stream, g);
  // dW is f32, read and written: instead of a table of T.
  const int64_t cells = g.rows.blocks * g.G;
  const Work work = block_product_work<T>(g.rows, g.G, g.D,
                                          bytes_for<float>(2 * cells * g.D) - bytes_for<T>(cells * g.D) +
                                              (g.weights != nullptr ? bytes_for<float>(g.rows.choices()) : 0));
  if constexpr (std::is_same_v<T, bfloat16>) {
    if (g.G >= kLeastCells && packs_fit(g.G, kPiece, g.h) && packs_fit(g.D, kPiece, g.x, g.dw)) {
      return on_tensor_cores(stream, g, work);
    }
  }
  cut(g, kTile, kTile);
  launch(stream, weight_gradient_kernel<T>, {static_cast<unsigned>(g.rows.blocks * g.parts * g.strips), kTileThreads},
         work, g);
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
                                        .pairs = pairs_of(rows),
                                        .G = static_cast<int>(h.cols()),
                                        .D = static_cast<int>(x.cols()),
                                        .parts = 0,
                                        .strips = 0});
  });
}

}  // namespace sffn::cuda
