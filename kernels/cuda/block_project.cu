// z[p] = x[token of p]·W_iᵀ + bias_i for the sorted rows p of block i, 0 in unused rows; and with an activation
// h = f(z), or h = f(gate) ⊙ z, of z as it is stored, before the thread that has it lets it go
//                                                h, z, gate [P,G]  x [N,D]  W [M,D] f32 or bf16  bias [M] f32
// A block of threads takes a tile of rows and some of the cells of their block, and gathers rows of x through
// routing.order. The parts of the cells of one tile of rows are neighbours, so that they meet in L2.
// Any type and size: 64 rows and 64 cells by fp32 multiply-adds (block_rows.cuh).
// bf16 of 16 cells and more whose rows are whole 16 bytes: tensor cores, 128 rows and 16 to 128 cells, 64 elements of D
// at a time, three stages of asynchronous copies; a warp has up to 64 × 32 results. Tiles come in segments of tokens
// whose rows of x stay in L2 (row_tiles.cuh). On sm_90a, 33 cells and more, rows of whole 16 bytes: block_product.cuh.
// One cell: a warp multiplies 32 rows, one after another (block_project.cuh).
#include "kernels/cuda/block_product.cuh"
#include "kernels/cuda/block_project.cuh"
#include "kernels/cuda/float_tile.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/panel.cuh"
#include "kernels/ops.h"

#include <algorithm>
#include <type_traits>

namespace sffn::cuda {
namespace {

constexpr int kRows = kTileRows, kStages = 3, kClearThreads = 256;
constexpr int kLeastCells = 16;  // of a block, on tensor cores

template <class T>
__global__ void clear_unused_kernel(T* h, T* z, const int32_t* used, int64_t rows, int64_t G) {
  const int64_t step = int64_t{gridDim.x} * kClearThreads;
  for (int64_t e = *used * G + int64_t{blockIdx.x} * kClearThreads + threadIdx.x; e < rows * G; e += step) {
    if (h != nullptr) store(h[e], 0.0f);
    if (z != nullptr) store(z[e], 0.0f);
  }
}

template <class F, class T>
__global__ void __launch_bounds__(kTileThreads) project_kernel(Projection<T> p, int64_t pairs) {
  __shared__ FloatTile tile;
  __shared__ int32_t token[kTile];
  const RowTile rows = tile_of_slot<kTile>(p.rows, pairs, blockIdx.x / p.parts);
  if (rows.first >= rows.last) return;
  const int64_t G = p.G, D = p.D, cell = blockIdx.x % p.parts * kTile, cells = G - cell, m = rows.block * G + cell;
  const int64_t count = rows.last - rows.first;
  if (threadIdx.x < count) token[threadIdx.x] = token_of_choice(p.rows, p.rows.order[rows.first + threadIdx.x]);
  TileSum sum = {};
  for (int64_t d = 0; d < D; d += kTileDepth) {
    __syncthreads();
    fill_along_depth(tile.a,
                     [&](int r, int k) { return r < count && d + k < D ? to_float(p.x[token[r] * D + d + k]) : 0.0f; });
    fill_along_depth(tile.b,
                     [&](int j, int k) { return j < cells && d + k < D ? to_float(p.w[(m + j) * D + d + k]) : 0.0f; });
    __syncthreads();
    add_products(sum, tile);
  }
  for (int r = 0; r < 4; ++r) {
    for (int c = 0; c < 4; ++c) {
      const int row = tile_row(r), j = tile_column(c);
      if (row >= count || j >= cells) continue;
      const float bias = p.bias != nullptr ? p.bias[m + j] : 0.0f;
      write_sum<F>(p, (rows.first + row) * G + cell + j, sum[r][c] + bias);
    }
  }
}

// ---- On tensor cores ----

template <int kCells>
struct Stage {  // shared: x along the depth of the product, w likewise
  bfloat16 x[kRows * kPanelWidth], w[kCells * kPanelWidth];
};

// How warps share the results.
template <int kCells>
struct Cut {
  static constexpr int kWarpRows = kCells >= 64 ? 64 : 32, kWarpCells = kCells >= 32 ? 32 : 16;
  static constexpr int kAcross = kCells / kWarpCells, kThreads = kRows / kWarpRows * kAcross * 32;
};

// Asks for elements [d, d + 64) of the rows of x of a tile (tokens, -1: none) and of cells [cell, cell + kCells) of its
// block; what does not exist is zero.
template <int kThreads, int kCells>
__device__ __forceinline__ void ask(Stage<kCells>& stage, const Projection<bfloat16>& p, const int32_t (&token)[kRows],
                                    int64_t block, int cell, int d) {
  const int width = p.D - d, cells = p.G - cell;
  const bfloat16 *x = p.x + d, *w = p.w + (block * p.G + cell) * p.D + d;
  ask_panel<kRows, kPanelPieces, kThreads>(stage.x, p.x, [&](int r, int k) {
    const int32_t n = token[r];
    return n >= 0 && k < width ? x + int64_t{n} * p.D + k : nullptr;
  });
  ask_panel<kCells, kPanelPieces, kThreads>(
      stage.w, p.w, [&](int j, int k) { return j < cells && k < width ? w + j * p.D + k : nullptr; });
}

template <int kM, int kN>
__device__ __forceinline__ void add_stage(FragmentC (&sum)[kM][kN], const bfloat16* x, const bfloat16* w, int row,
                                          int column) {
  SFFN_UNROLL for (int k = 0; k < kPanelWidth; k += 16) {
    FragmentA a[kM];
    FragmentB b[kN / 2][2];
    SFFN_UNROLL for (int i = 0; i < kM; ++i) load_a_along(a[i], x, row + 16 * i, k);
    SFFN_UNROLL for (int j = 0; j < kN / 2; ++j) load_b_along(b[j], w, column + 16 * j, k);
    SFFN_UNROLL for (int i = 0; i < kM; ++i) {
      SFFN_UNROLL for (int j = 0; j < kN; ++j) multiply_add(sum[i][j], a[i], b[j / 2][j % 2]);
    }
  }
}

// Of cell c, which is even, and the next.
template <bool kPacks>
__device__ __forceinline__ float2 bias_of_pair(const float* bias, int c, int G) {
  if (bias == nullptr || c >= G) return make_float2(0, 0);
  if constexpr (kPacks) return *reinterpret_cast<const float2*>(bias + c);
  return make_float2(bias[c], c + 1 < G ? bias[c + 1] : 0.0f);
}

// z becomes f(z), or f(gate)·z, pair by pair
template <class F, int kWords>
__device__ __forceinline__ void activate(uint32_t (&z)[kWords], const uint32_t (&gate)[kWords], bool gated) {
  SFFN_UNROLL for (int i = 0; i < kWords; ++i) {
    const uint32_t of = gated ? gate[i] : z[i];
    const float low = F::value(low_of(of)), high = F::value(high_of(of));
    z[i] = gated ? rounded_pair(low * low_of(z[i]), high * high_of(z[i])) : rounded_pair(low, high);
  }
}

// z = sums + bias, and h, at the tile's 16 rows from `row` on and cells from `cell` on. Four fragments, 32 cells, leave
// at once where their rows allow it: 16 bytes a lane.
template <bool kPacks, class F, int kN>
__device__ __forceinline__ void write_sums(const Projection<bfloat16>& p, const FragmentC (&sum)[kN],
                                           const RowTile& tile, int row, int cell) {
  constexpr int kAtOnce = kN < 4 ? kN : 4;
  const int g = lane_of_warp() / 4, t = lane_of_warp() % 4;
  const float* bias = p.bias != nullptr ? p.bias + tile.block * p.G : nullptr;
  const bfloat16* gate[2];
  bfloat16 *z[2], *h[2];
  SFFN_UNROLL for (int half = 0; half < 2; ++half) {
    const int64_t to = tile.first + row + 8 * half + g;
    const auto row_of = [&](auto* of) { return of != nullptr && to < tile.last ? of + to * p.G : nullptr; };
    gate[half] = row_of(p.gate), z[half] = row_of(p.z), h[half] = row_of(p.h);
  }
  SFFN_UNROLL for (int j = 0; j < kN; j += kAtOnce) {
    const int first = cell + 8 * j;
    float2 added[kAtOnce];
    SFFN_UNROLL for (int i = 0; i < kAtOnce; ++i) { added[i] = bias_of_pair<kPacks>(bias, first + 8 * i + 2 * t, p.G); }
    uint32_t gates[2][kAtOnce];
    if constexpr (kActivates<F>) {
      SFFN_UNROLL for (int half = 0; half < 2; ++half) load_words<kPacks>(gates[half], gate[half], first, p.G);
    }
    SFFN_UNROLL for (int half = 0; half < 2; ++half) {
      uint32_t word[kAtOnce];
      SFFN_UNROLL for (int i = 0; i < kAtOnce; ++i) {
        const float* at = sum[j + i].at + half * 2;
        word[i] = rounded_pair(at[0] + added[i].x, at[1] + added[i].y);
      }
      exchange_words<kPacks>(word);
      store_words<kPacks>(z[half], word, first, p.G);
      if constexpr (kActivates<F>) {
        activate<F>(word, gates[half], p.gate != nullptr);
        store_words<kPacks>(h[half], word, first, p.G);
      }
    }
  }
}

// Eight cells of z and of h; e: the first one's place in both.
template <bool kGated, class F>
__device__ __forceinline__ void write_piece(const Projection<bfloat16>& p, const uint4& piece, int64_t e) {
  if (p.z != nullptr) *reinterpret_cast<uint4*>(p.z + e) = piece;
  if constexpr (kActivates<F>) {
    uint32_t word[4] = {piece.x, piece.y, piece.z, piece.w}, gate[4];
    if constexpr (kGated) {
      const uint4 of_gate = *reinterpret_cast<const uint4*>(p.gate + e);
      gate[0] = of_gate.x, gate[1] = of_gate.y, gate[2] = of_gate.z, gate[3] = of_gate.w;
    }
    activate<F>(word, gate, kGated);
    *reinterpret_cast<uint4*>(p.h + e) = make_uint4(word[0], word[1], word[2], word[3]);
  }
}

// z = sums + bias, and h, at the rows of a unit that this warp has.
template <bool kGated, class F, int kCells>
__device__ __forceinline__ void write_unit(const Projection<bfloat16>& p, const UnitEnd<kCells>& end,
                                           const ProductUnit& unit) {
  const int lane = lane_of_warp(), row = unit.first + static_cast<int>(threadIdx.x) / 32 * 16 + lane / 8;
  const int cell = unit.column + lane % 8 * kPiece;
  const int64_t first = int64_t{row} * p.G + cell;
  SFFN_UNROLL for (int j = 0; j < kCells / 8; j += 8) {
    float2 added[8];
    SFFN_UNROLL for (int i = 0; i < 8; ++i) {
      added[i] = end.bias != nullptr ? *reinterpret_cast<const float2*>(end.bias + 8 * (j + i) + lane % 4 * 2)
                                     : make_float2(0, 0);
    }
    SFFN_UNROLL for (int half = 0; half < 2; ++half) {
      uint32_t word[8];
      uint4 piece[2];
      SFFN_UNROLL for (int i = 0; i < 8; ++i) {
        const float* at = end.sum[j + i].at + 2 * half;
        word[i] = rounded_pair(at[0] + added[i].x, at[1] + added[i].y);
      }
      turn_rows(piece, word, end.turned);
      SFFN_UNROLL for (int i = 0; i < 2; ++i) {
        const int rows = 8 * half + 4 * i;
        if (row + rows >= unit.last || cell + 8 * j >= p.G) continue;
        write_piece<kGated, F>(p, piece[i], first + int64_t{rows} * p.G + 8 * j);
      }
    }
  }
}

// token[r] of row r; -1 behind the last
__device__ __forceinline__ void read_tokens(int32_t (&token)[kRows], const BlockRows& rows, const RowTile& tile) {
  if (const int me = static_cast<int>(threadIdx.x); me < kRows) {
    token[me] = tile.first + me < tile.last ? token_of_choice(rows, rows.order[tile.first + me]) : -1;
  }
  __syncthreads();
}

template <int kCells, class F>
__global__ void __launch_bounds__(Cut<kCells>::kThreads, kCells == 128 ? 2 : 3)
    project_on_tensor_cores_kernel(Projection<bfloat16> p) {
  using C = Cut<kCells>;
  auto* stages = panels_of_block<Stage<kCells>>();
  __shared__ int32_t token[kRows];
  RowTile tile;
  if (!listed_tile(tile, p.list, blockIdx.x / p.parts)) return;
  const int cell = static_cast<int>(blockIdx.x % p.parts) * kCells, warp = static_cast<int>(threadIdx.x) / 32;
  const int row = warp / C::kAcross * C::kWarpRows, column = warp % C::kAcross * C::kWarpCells;
  read_tokens(token, p.rows, tile);
  const bool useful = tile.first + row < tile.last && cell + column < p.G;  // for this warp
  FragmentC sum[C::kWarpRows / 16][C::kWarpCells / 8] = {};
  int d = 0;
  run_stages<kStages>(
      [&](int stage) {
        if (d >= p.D) return false;
        ask<C::kThreads>(stages[stage], p, token, tile.block, cell, d);
        d += kPanelWidth;
        return true;
      },
      [&](int stage) {
        if (useful) add_stage(sum, stages[stage].x, stages[stage].w, row, column);
      });
  if (!useful) return;
  SFFN_UNROLL for (int i = 0; i < C::kWarpRows / 16; ++i) {
    p.packs ? write_sums<true, F>(p, sum[i], tile, row + 16 * i, cell + column)
            : write_sums<false, F>(p, sum[i], tile, row + 16 * i, cell + column);
  }
}

template <int kCells, class F>
void project_on_tensor_cores(Stream& stream, Projection<bfloat16>& p, const Work& work) {
  p.part = kCells, p.parts = (p.G + kCells - 1) / kCells;
  launch(stream, project_on_tensor_cores_kernel<kCells, F>,
         {static_cast<unsigned>(p.list.slots() * p.parts), Cut<kCells>::kThreads,
          kStages * sizeof(Stage<kCells>) + kPanelAlignment},
         work, p);
}

// The rows of x are those of tokens.
struct RowsOfTokens {
  const BlockRows& rows;
  __device__ __forceinline__ int32_t found(int32_t row) const { return rows.order[row]; }
  __device__ __forceinline__ int32_t row_of(int32_t choice) const { return token_of_choice(rows, choice); }
};

template <int kCells, class F>
__global__ void __launch_bounds__(GroupProduct<kCells>::kThreads, GroupProduct<kCells>::kBlocks)
    project_on_warpgroups_kernel(Projection<bfloat16> p, BlockProduct product) {
#if SFFN_WGMMA
  multiply_units<false, kCells>(
      product, RowsOfTokens{p.rows}, [](const ProductUnit&) { return 0; },
      [&](const ProductUnit& unit, int, const UnitEnd<kCells>& end) {
        kActivates<F>&& p.gate != nullptr ? write_unit<kActivates<F>, F>(p, end, unit)
                                          : write_unit<false, F>(p, end, unit);
      });
#else
  __trap();  // the host asks for it where it is compiled
#endif
}

template <class F>
void project_on_warpgroups(Stream& stream, const Projection<bfloat16>& p, const Work& work) {
  const BlockProduct product{.left = p.x,
                             .w = p.w,
                             .G = p.G,
                             .D = p.D,
                             .bias = p.bias,
                             .begin = 0,
                             .end = p.G,
                             .list = p.list,
                             .first = 0,
                             .slots = static_cast<int>(p.list.slots())};
  switch (columns_of_unit(p.G, 256)) {
    case 64:
      return launch_units<64>(stream, project_on_warpgroups_kernel<64, F>, work, p, product);
    case 128:
      return launch_units<128>(stream, project_on_warpgroups_kernel<128, F>, work, p, product);
    default:
      return launch_units<256>(stream, project_on_warpgroups_kernel<256, F>, work, p, product);
  }
}

template <class F>
void on_tensor_cores(Stream& stream, Projection<bfloat16> p, const Work& work) {
  // A gathered row is multiplied with G cells: the more, the less it matters whether it comes from L2.
  const int64_t least_rows = p.G < 128 ? 512 : p.G < 512 ? 1024 : 8192;
  p.list = TileList(p.rows, cached_segment(stream, p.rows, p.D * static_cast<int64_t>(sizeof(bfloat16)), least_rows));
  list_tiles(stream, p.list, workspace<char>(stream, p.list.bytes()), p.rows);
  if (p.G <= 16) return project_on_tensor_cores<16, F>(stream, p, work);
  if (p.G <= 32) return project_on_tensor_cores<32, F>(stream, p, work);
  if (native(stream).warpgroups && p.packs) return project_on_warpgroups<F>(stream, p, work);
  columns_of_unit(p.G, 128) == 64 ? project_on_tensor_cores<64, F>(stream, p, work)
                                  : project_on_tensor_cores<128, F>(stream, p, work);
}

template <class F, class T>
void project(Stream& stream, Projection<T> p) {
  const int64_t P = p.rows.choices(), pairs = pairs_of(p.rows);
  if (P == 0) return;
  const int further = (p.h != nullptr && p.z != nullptr ? 1 : 0) + (p.gate != nullptr ? 1 : 0);  // beside h or z
  const double further_bytes =
      bytes_for<T>(further * P * p.G) + (p.bias != nullptr ? bytes_for<float>(p.rows.blocks * p.G) : 0);
  const Work work = block_product_work<T>(p.rows, p.G, p.D, further_bytes);
  launch(stream, clear_unused_kernel<T>, {blocks_for(P * p.G, kClearThreads, 1024), kClearThreads},
         Work{bytes_for<int32_t>(1)}, p.h, p.z, p.rows.offsets + pairs, P, p.G);
  if (p.G == 1) return cells::project<F>(stream, p, further_bytes);
  if constexpr (std::is_same_v<T, bfloat16>) {
    if (p.G >= kLeastCells && packs_fit(p.D, kPiece, p.x, p.w)) return on_tensor_cores<F>(stream, p, work);
  }
  p.part = kTile, p.parts = (p.G + kTile - 1) / kTile;
  launch(stream, project_kernel<F, T>, {static_cast<unsigned>(tile_slots<kTile>(p.rows) * p.parts), kTileThreads}, work,
         p, pairs);
}

template <class F>
void project(Stream& stream, const char* op, const Tensor& h, const Tensor& z, const Tensor& x, const Tensor& w,
             const Tensor& bias, const Tensor& gate, const BlockRouting& routing) {
  const BlockRows rows(routing);
  const int64_t G = w.rows() / rows.blocks;
  with_activation_type(op, x, [&]<class T>(T) {
    project<F>(stream, Projection<T>{.h = h.data_or_null<T>(),
                                     .z = z.raw() != h.raw() ? z.data<T>() : nullptr,
                                     .x = x.data<T>(),
                                     .w = w.data<T>(),
                                     .bias = bias.data_or_null<float>(),
                                     .gate = gate.data_or_null<T>(),
                                     .rows = rows,
                                     .list = {},
                                     .G = static_cast<int>(G),
                                     .D = static_cast<int>(x.cols()),
                                     .parts = 0,
                                     .part = 0,
                                     .packs = packs_fit(G, kPiece, h.raw(), z.raw(), gate.raw(), bias.raw())});
  });
}

}  // namespace

void block_project(Stream& stream, Tensor z, const Tensor& x, const Tensor& w, const Tensor& bias,
                   const BlockRouting& routing) {
  project<NoActivation>(stream, "block_project", Tensor(), z, x, w, bias, Tensor(), routing);
}

void block_project_activation(Stream& stream, Tensor h, Tensor z, const Tensor& x, const Tensor& w, const Tensor& bias,
                              const Tensor& gate, const BlockRouting& routing, Activation f) {
  with_activation(f,
                  [&]<class F>(F) { project<F>(stream, "block_project_activation", h, z, x, w, bias, gate, routing); });
}

}  // namespace sffn::cuda
