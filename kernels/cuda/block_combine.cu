// y[n] = Σ_i weights[n,i]·h[inverse[n,i]]·W_block + bias (+ y), over i in order, rounded once
//                             y [N,D]  h [P,G]  W [M,D] f32 or bf16  weights [N,b], bias [D] f32; weights absent: 1
// Any type and size: combine_units.cuh. One cell: combine_cells.cuh. bf16 of 16 cells and more whose rows are whole 16
// bytes: a segment of tokens and a strip of columns at a time, in two kernels,
//   multiply_rows  E[c] = h[p]·W_block for the rows p of the segment, c the choice of p          E [choices, columns]
//   sum_products   y[n] = Σ_i weights[n,i]·E[n·b + i] + bias (+ y), in fp32
// E is bf16, which halves what the two move: with u the unit roundoff of bf16, y is off by at most u·Σ_i |weights·E|
// beside its own rounding. Its rows are in the order of choices, so that the second kernel reads memory in order; it
// stays within the stream's product_bytes. The tables are read once for each segment, h once for each strip. With one
// choice a token and nothing to add or to weigh, E is y.
// multiply_rows is a grouped product on tensor cores: a block of threads takes a tile of 128 rows (row_tiles.cuh) and
// some of the columns, 128 at a time, in steps of up to 64 cells, three stages of asynchronous copies; each of 8 warps
// has 64 × 32 results. On sm_90a, from 33 cells on: block_product.cuh.
#include "kernels/cuda/block_product.cuh"
#include "kernels/cuda/combine_cells.cuh"
#include "kernels/cuda/combine_units.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/panel.cuh"
#include "kernels/cuda/row_tiles.cuh"
#include "kernels/ops.h"

#include <cmath>
#include <type_traits>

namespace sffn::cuda {
namespace {

constexpr int kRows = kTileRows, kColumns = 128, kStages = 3, kThreads = 256;
constexpr int kWarpRows = 64, kWarpColumns = 32, kAcross = kColumns / kWarpColumns;
constexpr int64_t kLeastCells = 16;  // of a block, on tensor cores

struct Products {
  bfloat16* products;  // E, of the strip's columns
  const bfloat16 *h, *w;
  BlockRows rows;
  TileList list;
  int G, D;
  int segment, column, end;  // columns [column, end)
  int parts, part;           // parts of the strip, columns of one
};

template <int kDepth>
struct Stage {  // shared: h along the depth of the product, w across it
  bfloat16 h[kRows * kPanelWidth], w[kColumns / kPanelWidth][kDepth * kPanelWidth];
};

// Asks for cells [k, k + kDepth) of the factors of a tile and columns from `column` on; what does not exist is zero.
template <int kDepth>
__device__ __forceinline__ void ask(Stage<kDepth>& stage, const Products& p, const RowTile& tile, int k, int column) {
  const int count = static_cast<int>(tile.last - tile.first);
  const bfloat16* h = p.h + tile.first * p.G + k;
  const bfloat16* w = p.w + (tile.block * p.G + k) * p.D + column;
  const int cells = p.G - k, columns = p.D - column;
  ask_panel<kRows, kDepth / kPiece, kThreads>(
      stage.h, p.h, [&](int r, int c) { return r < count && c < cells ? h + r * p.G + c : nullptr; });
  SFFN_UNROLL for (int panel = 0; panel < kColumns / kPanelWidth; ++panel) {
    ask_panel<kDepth, kPanelPieces, kThreads>(stage.w[panel], p.w, [&](int r, int c) {
      const int d = panel * kPanelWidth + c;
      return r < cells && d < columns ? w + r * p.D + d : nullptr;
    });
  }
}

using Sums = FragmentC[kWarpRows / 16][kWarpColumns / 8];

template <int kDepth>
__device__ __forceinline__ void add_stage(Sums& sum, const Stage<kDepth>& stage, int row, int column) {
  const bfloat16* w = stage.w[column / kPanelWidth];
  SFFN_UNROLL for (int k = 0; k < kDepth; k += 16) {
    FragmentA a[kWarpRows / 16];
    FragmentB b[kWarpColumns / 16][2];
    SFFN_UNROLL for (int i = 0; i < kWarpRows / 16; ++i) load_a_along(a[i], stage.h, row + 16 * i, k);
    SFFN_UNROLL for (int j = 0; j < kWarpColumns / 16; ++j) {
      load_b_across(b[j], w, column % kPanelWidth + 16 * j, k);
    }
    SFFN_UNROLL for (int i = 0; i < kWarpRows / 16; ++i) {
      SFFN_UNROLL for (int j = 0; j < kWarpColumns / 8; ++j) multiply_add(sum[i][j], a[i], b[j / 2][j % 2]);
    }
  }
}

// The choice that is row 0 of E.
__device__ __forceinline__ int32_t first_choice(const Products& p) {
  return static_cast<int32_t>(p.segment * p.list.tokens * p.rows.per_token);
}

// Places in E of the rows of a lane in a fragment, or -1.
struct Places {
  int32_t of_half[2];
};

// Writes 16 rows and 8·kN columns from `column` on.
template <int kN>
__device__ __forceinline__ void write_products(const Products& p, const FragmentC (&sum)[kN], const Places& places,
                                               int column) {
  const int pitch = p.end - p.column;
  SFFN_UNROLL for (int half = 0; half < 2; ++half) {
    const int32_t place = places.of_half[half];
    bfloat16* row = place < 0 ? nullptr : p.products + int64_t{place} * pitch - p.column;
    SFFN_UNROLL for (int j = 0; j < kN; j += 4) {
      uint32_t word[4];
      SFFN_UNROLL for (int i = 0; i < 4; ++i) {
        word[i] = rounded_pair(sum[j + i].at[2 * half], sum[j + i].at[2 * half + 1]);
      }
      exchange_words<true>(word);
      store_words<true>(row, word, column + 8 * j, p.end);
    }
  }
}

// Places of a tile's rows in E; -1 behind the last.
__device__ __forceinline__ void read_places(int32_t (&place)[kRows], const Products& p, const RowTile& tile) {
  if (const int me = static_cast<int>(threadIdx.x); me < kRows) {
    place[me] = tile.first + me < tile.last ? p.rows.order[tile.first + me] - first_choice(p) : -1;
  }
  __syncthreads();
}

template <int kDepth>
__global__ void __launch_bounds__(kThreads, 2) multiply_rows_kernel(Products p) {
  auto* stages = panels_of_block<Stage<kDepth>>();
  __shared__ int32_t place[kRows];
  RowTile tile;
  if (!listed_tile(tile, p.list, p.segment * p.list.most + blockIdx.x / p.parts)) return;
  const int warp = static_cast<int>(threadIdx.x) / 32, row = warp / kAcross * kWarpRows;
  const int column = warp % kAcross * kWarpColumns;
  const int begin = p.column + static_cast<int>(blockIdx.x % p.parts) * p.part;
  const int end = begin + p.part < p.end ? begin + p.part : p.end;
  read_places(place, p, tile);
  const bool useful = tile.first + row < tile.last;  // for this warp
  Sums sum = {};
  int ask_column = begin, ask_cell = 0, sum_column = begin + column, sum_cell = 0;  // where the copies and sums are
  run_stages<kStages>(
      [&](int stage) {
        if (ask_column >= end) return false;
        ask(stages[stage], p, tile, ask_cell, ask_column);
        ask_cell += kDepth;
        if (ask_cell >= p.G) ask_cell = 0, ask_column += kColumns;
        return true;
      },
      [&](int stage) {
        const bool inside = useful && sum_column < end;
        if (inside) add_stage(sum, stages[stage], row, column);
        sum_cell += kDepth;
        if (sum_cell < p.G) return;
        SFFN_UNROLL for (int i = 0; i < kWarpRows / 16; ++i) {
          const int32_t* at = place + row + 16 * i + lane_of_warp() / 4;
          if (inside) write_products(p, sum[i], {at[0], at[8]}, sum_column);
          SFFN_UNROLL for (int j = 0; j < kWarpColumns / 8; ++j) sum[i][j] = {};
        }
        sum_cell = 0, sum_column += kColumns;
      });
}

// The rows of h are those of the routing.
struct SortedRows {
  static __device__ __forceinline__ int32_t found(int32_t row) { return row; }
  static __device__ __forceinline__ int32_t row_of(int32_t row) { return row; }
};

// Choices of the rows that a lane has of 16 after turn_rows; -1: none.
struct TurnedChoices {
  int32_t of_row[4];
};

template <int kUnitColumns>
__device__ __forceinline__ void write_turned(const Products& p, const UnitEnd<kUnitColumns>& end,
                                             const TurnedChoices& choices, int column) {
  const int pieces = (p.end - p.column) / kPiece, first = (column - p.column) / kPiece + lane_of_warp() % 8;
  uint4* row[4];
  SFFN_UNROLL for (int i = 0; i < 4; ++i) {
    row[i] = reinterpret_cast<uint4*>(p.products) + int64_t{choices.of_row[i] - first_choice(p)} * pieces + first;
  }
  SFFN_UNROLL for (int j = 0; j < kUnitColumns / 8; j += 8) {
    SFFN_UNROLL for (int half = 0; half < 2; ++half) {
      uint32_t word[8];
      uint4 piece[2];
      SFFN_UNROLL for (int i = 0; i < 8; ++i) {
        word[i] = rounded_pair(end.sum[j + i].at[2 * half], end.sum[j + i].at[2 * half + 1]);
      }
      turn_rows(piece, word, end.turned);
      SFFN_UNROLL for (int i = 0; i < 2; ++i) {
        if (choices.of_row[2 * half + i] >= 0 && first + j < pieces) row[2 * half + i][j] = piece[i];
      }
    }
  }
}

template <int kUnitColumns>
__global__ void __launch_bounds__(GroupProduct<kUnitColumns>::kThreads, GroupProduct<kUnitColumns>::kBlocks)
    multiply_rows_on_warpgroups_kernel(Products p, BlockProduct product) {
#if SFFN_WGMMA
  const auto choices_of = [&](const ProductUnit& unit) {
    TurnedChoices choices;
    SFFN_UNROLL for (int i = 0; i < 4; ++i) {
      const int row = unit.first + static_cast<int>(threadIdx.x) / 32 * 16 + 4 * i + lane_of_warp() / 8;
      choices.of_row[i] = row < unit.last ? p.rows.order[row] : -1;
    }
    return choices;
  };
  multiply_units<true, kUnitColumns>(
      product, SortedRows{}, choices_of,
      [&](const ProductUnit& unit, const TurnedChoices& choices, const UnitEnd<kUnitColumns>& end) {
        write_turned(p, end, choices, unit.column);
      });
#else
  __trap();  // the host asks for it where it is compiled
#endif
}

constexpr int kSumThreads = 256, kSumColumns = 8;

// A thread has 8 columns of one token; it asks for kSumBatch products at a time, those of dropped choices too, whose
// places are not written. For so many blocks a multiprocessor, because for more the compiler would ask for one product
// when it adds it.
template <int kSumBatch>
__global__ void __launch_bounds__(kSumThreads, kSumBatch == 8 ? 3 : 4)
    sum_products_kernel(Combination<bfloat16> c, Products p) {
  using Term = Pack<bfloat16, kSumColumns>;
  const auto pitch = static_cast<unsigned>(p.end - p.column), packs = pitch / kSumColumns;
  const auto b = static_cast<int>(c.rows.per_token);
  const unsigned e = blockIdx.x * kSumThreads + threadIdx.x, token = e / packs, pack = e % packs;
  const int64_t first = p.segment * p.list.tokens, n = first + token, d = p.column + int64_t{pack} * kSumColumns;
  if (token >= p.list.tokens || n >= c.rows.tokens) return;
  const bfloat16* products = p.products + int64_t{token} * b * pitch + pack * kSumColumns;
  const int32_t* place = c.rows.inverse + n * b;
  const float* weights = c.weights != nullptr ? c.weights + n * b : nullptr;
  float sum[kSumColumns] = {};
  for (int i = 0; i < b; i += kSumBatch) {
    Term term[kSumBatch];
    SFFN_UNROLL for (int u = 0; u < kSumBatch; ++u) {
      if (i + u < b) term[u] = *reinterpret_cast<const Term*>(products + int64_t{i + u} * pitch);
    }
    SFFN_UNROLL for (int u = 0; u < kSumBatch; ++u) {
      if (i + u >= b || place[i + u] < 0) continue;
      const float weight = weights != nullptr ? weights[i + u] : 1.0f;
      SFFN_UNROLL for (int k = 0; k < kSumColumns; ++k) sum[k] += weight * to_float(term[u].at[k]);
    }
  }
  bfloat16* y = c.y + n * c.D + d;
  float before[kSumColumns] = {};
  if (c.accumulate) load_floats(before, y);
  SFFN_UNROLL for (int k = 0; k < kSumColumns; ++k) sum[k] += c.bias != nullptr ? c.bias[d + k] : 0.0f;
  SFFN_UNROLL for (int k = 0; k < kSumColumns; ++k) sum[k] += before[k];
  store_floats(y, sum);
}

// Tokens of a segment and columns of a strip whose products fit in `bytes`, if those of a token and 256 columns do.
struct ProductCut {
  int64_t tokens, columns;
};

// y of tokens whose only choice was dropped. A warp has a token.
__global__ void __launch_bounds__(kSumThreads) clear_dropped_kernel(bfloat16* y, BlockRows rows, int64_t D) {
  const int64_t n = int64_t{blockIdx.x} * (kSumThreads / 32) + threadIdx.x / 32;
  if (n >= rows.tokens || rows.inverse[n] >= 0) return;
  const float zeros[kSumColumns] = {};
  for (int64_t d = lane_of_warp() * kSumColumns; d < D; d += 32 * kSumColumns) store_floats(y + n * D + d, zeros);
}

constexpr int64_t kStrip = 256;  // columns of a strip: a multiple

// N / tokens times the tables (M·D) are read, and D / columns times h (P·G): with tokens·columns = room, least where
// tokens² = room·B / b.
ProductCut cut_products(const BlockRows& rows, int64_t D, int64_t bytes) {
  const int64_t b = rows.per_token, room = std::max<int64_t>(1, bytes / (b * static_cast<int64_t>(sizeof(bfloat16))));
  const double best = std::sqrt(static_cast<double>(room) * static_cast<double>(rows.blocks) / static_cast<double>(b));
  const int64_t widest = (D + kStrip - 1) / kStrip * kStrip;
  int64_t tokens = std::clamp<int64_t>(static_cast<int64_t>(best), 1, rows.tokens);
  const int64_t fitting = std::clamp<int64_t>(room / tokens / kStrip * kStrip, kStrip, widest);
  const int64_t strips = (widest + fitting - 1) / fitting;
  const int64_t columns = (widest / kStrip + strips - 1) / strips * kStrip;  // as even as can be
  tokens = std::clamp<int64_t>(room / columns, 1, rows.tokens);
  const int64_t segments = (rows.tokens + tokens - 1) / tokens;
  tokens = (rows.tokens + segments - 1) / segments;
  return {tokens, std::min(columns, D)};
}

template <int kDepth>
void multiply_rows(Stream& stream, const Work& work, Products p) {
  constexpr int kSteps = 8;  // of one block of threads, at least, if the strip is wide enough
  const int tiles = (p.end - p.column + kColumns - 1) / kColumns, steps = (p.G + kDepth - 1) / kDepth;
  p.part = std::clamp(kSteps / steps, 1, tiles) * kColumns;
  p.parts = (p.end - p.column + p.part - 1) / p.part;
  launch(stream, multiply_rows_kernel<kDepth>,
         {static_cast<unsigned>(p.list.most * p.parts), kThreads, kStages * sizeof(Stage<kDepth>) + kPanelAlignment},
         work, p);
}

void multiply_rows_on_warpgroups(Stream& stream, const Work& work, const Products& p) {
  const BlockProduct product{.left = p.h,
                             .w = p.w,
                             .G = p.G,
                             .D = p.D,
                             .bias = nullptr,
                             .begin = p.column,
                             .end = p.end,
                             .list = p.list,
                             .first = static_cast<int>(p.segment * p.list.most),
                             .slots = static_cast<int>(p.list.most)};
  switch (columns_of_unit(p.end - p.column, 256)) {
    case 64:
      return launch_units<64>(stream, multiply_rows_on_warpgroups_kernel<64>, work, p, product);
    case 128:
      return launch_units<128>(stream, multiply_rows_on_warpgroups_kernel<128>, work, p, product);
    default:
      return launch_units<256>(stream, multiply_rows_on_warpgroups_kernel<256>, work, p, product);
  }
}

void combine_on_tensor_cores(Stream& stream, const Combination<bfloat16>& c) {
  const bool alone = c.rows.per_token == 1 && c.weights == nullptr && c.bias == nullptr && !c.accumulate;
  const ProductCut cut =
      alone ? ProductCut{c.rows.tokens, c.D} : cut_products(c.rows, c.D, native(stream).product_bytes);
  TileList list(c.rows, cut.tokens);
  const int64_t products = alone ? 0 : list.tokens * c.rows.per_token * cut.columns;
  auto* memory = workspace<char>(stream, list.bytes() + products * static_cast<int64_t>(sizeof(bfloat16)));
  list_tiles(stream, list, memory, c.rows);
  for (int segment = 0; segment < list.segments; ++segment) {
    for (int64_t column = 0; column < c.D; column += cut.columns) {
      const Products p{.products = alone ? c.y : reinterpret_cast<bfloat16*>(memory + list.bytes()),
                       .h = c.h,
                       .w = c.w,
                       .rows = c.rows,
                       .list = list,
                       .G = static_cast<int>(c.G),
                       .D = static_cast<int>(c.D),
                       .segment = segment,
                       .column = static_cast<int>(column),
                       .end = static_cast<int>(std::min(column + cut.columns, c.D)),
                       .parts = 0,
                       .part = 0};
      const int64_t tokens = std::min(list.tokens, c.rows.tokens - segment * list.tokens), columns = p.end - p.column;
      const int64_t choices = tokens * c.rows.per_token;
      const double moved = bytes_for<bfloat16>(choices * columns);
      const Work work{
          bytes_for<bfloat16>(choices * c.G + c.rows.blocks * c.G * columns) + bytes_for<int32_t>(choices) + moved,
          flops_of(choices, c.G, columns), true};
      const bool warpgroups = native(stream).warpgroups;
      c.G <= 16    ? multiply_rows<16>(stream, work, p)
      : c.G <= 32  ? multiply_rows<32>(stream, work, p)
      : warpgroups ? multiply_rows_on_warpgroups(stream, work, p)
                   : multiply_rows<64>(stream, work, p);
      if (alone) continue;
      launch(stream, c.rows.per_token > 4 ? sum_products_kernel<8> : sum_products_kernel<4>,
             {blocks_for(tokens * columns / kSumColumns, kSumThreads), kSumThreads},
             Work{moved + bytes_for<bfloat16>((c.accumulate ? 2 : 1) * tokens * columns) +
                  bytes_for<int32_t>((c.weights != nullptr ? 2 : 1) * choices)},
             c, p);
    }
  }
  if (!alone) return;
  launch(stream, clear_dropped_kernel, {blocks_for(c.rows.tokens, kSumThreads / 32), kSumThreads},
         Work{bytes_for<int32_t>(c.rows.tokens)}, c.y, c.rows, c.D);
}

template <class T>
void combine(Stream& stream, const Combination<T>& c) {
  if (c.rows.tokens == 0 || c.D == 0) return;
  if (c.G == 1) return cells::combine(stream, c);
  if constexpr (std::is_same_v<T, bfloat16>) {
    if (c.G >= kLeastCells && packs_fit(c.G, kPiece, c.h) && packs_fit(c.D, kPiece, c.w, c.y)) {
      return combine_on_tensor_cores(stream, c);
    }
  }
  combine_units(stream, c,
                block_product_work<T>(c.rows, c.G, c.D,
                                      (c.accumulate ? bytes_for<T>(c.rows.tokens * c.D) : 0) +
                                          (c.weights != nullptr ? bytes_for<float>(c.rows.choices()) : 0)));
}

}  // namespace

void block_combine(Stream& stream, Tensor y, const Tensor& h, const Tensor& weights, const Tensor& w,
                   const Tensor& bias, const BlockRouting& routing, Accumulate accumulate) {
  const BlockRows rows(routing);
  with_activation_type("block_combine", y, [&]<class T>(T) {
    combine(stream, Combination<T>{.y = y.data<T>(),
                                   .h = h.data<T>(),
                                   .weights = weights.data_or_null<float>(),
                                   .w = w.data<T>(),
                                   .bias = bias.data_or_null<float>(),
                                   .rows = rows,
                                   .accumulate = accumulate == Accumulate::kYes,
                                   .G = h.cols(),
                                   .D = y.cols()});
  });
}

}  // namespace sffn::cuda
