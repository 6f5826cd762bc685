// z[p] = x[token of p]·W_iᵀ + bias_i for the sorted rows p of block i, 0 in unused rows
//                                                         z [P,G]  x [N,D]  W [M,D] f32 or bf16  bias [M] f32
// A block of threads takes a tile of rows of one pair (block_rows.cuh) and 64 of its cells, and gathers rows of x
// through routing.order. Any type and size: 64 rows by fp32 multiply-adds. bf16 whose rows are whole 16 bytes: 128 rows
// on tensor cores, 64 elements of D at a time, three stages of asynchronous copies; 8 warps have 32 × 32 results each.
// The tiles of cells of one tile of rows are neighbours, so that they meet in L2.
#include "kernels/cuda/block_rows.cuh"
#include "kernels/cuda/float_tile.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/ops.h"

#include <type_traits>

namespace sffn::cuda {
namespace {

constexpr int kRows = 128, kCells = 64, kDepth = 64, kStages = 3, kThreads = 256;
constexpr int kStride = kDepth + 8;  // 8 rows of a matrix lie in 32 different banks

template <class T>
struct Projection {
  T* z;
  const T *x, *w;
  const float* bias;
  BlockRows rows;
  int64_t pairs, G, D, parts;  // parts of 64 cells
  bool pairs_fit;              // two neighbours of z can be written at once
};

template <class T>
__global__ void clear_unused_kernel(T* z, const int32_t* used, int64_t rows, int64_t G) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t e = *used * G + int64_t{blockIdx.x} * kThreads + threadIdx.x; e < rows * G; e += step) store(z[e], 0.0f);
}

template <class T>
__global__ void __launch_bounds__(kTileThreads) project_kernel(Projection<T> p) {
  __shared__ FloatTile tile;
  __shared__ int32_t token[kTile];
  const RowTile rows = tile_of_slot<kTile>(p.rows, p.pairs, blockIdx.x / p.parts);
  if (rows.first >= rows.last) return;
  const int64_t cell = blockIdx.x % p.parts * kTile, cells = p.G - cell, m = rows.block * p.G + cell;
  const int64_t count = rows.last - rows.first;
  if (threadIdx.x < count) token[threadIdx.x] = token_of_choice(p.rows, p.rows.order[rows.first + threadIdx.x]);
  TileSum sum = {};
  for (int64_t d = 0; d < p.D; d += kTileDepth) {
    __syncthreads();
    fill_along_depth(
        tile.a, [&](int r, int k) { return r < count && d + k < p.D ? to_float(p.x[token[r] * p.D + d + k]) : 0.0f; });
    fill_along_depth(
        tile.b, [&](int j, int k) { return j < cells && d + k < p.D ? to_float(p.w[(m + j) * p.D + d + k]) : 0.0f; });
    __syncthreads();
    add_products(sum, tile);
  }
  for (int r = 0; r < 4; ++r) {
    for (int c = 0; c < 4; ++c) {
      const int row = tile_row(r), j = tile_column(c);
      if (row >= count || j >= cells) continue;
      const float bias = p.bias != nullptr ? p.bias[m + j] : 0.0f;
      store(p.z[(rows.first + row) * p.G + cell + j], sum[r][c] + bias);
    }
  }
}

struct Stage {  // shared
  alignas(16) bfloat16 x[kRows][kStride], w[kCells][kStride];
};

// Asks for elements [d, d + kDepth) of the rows of both factors; what does not exist is zero.
__device__ __forceinline__ void ask(Stage& stage, const Projection<bfloat16>& p, const int32_t* token, int64_t m,
                                    int64_t cells, int64_t d) {
  constexpr int kPieces = kDepth / 8;
  const int me = static_cast<int>(threadIdx.x), k = me % kPieces * 8;
  const bool inside = d + k < p.D;
  for (int r = me / kPieces; r < kRows; r += kThreads / kPieces) {
    const bool copied = inside && token[r] >= 0;
    copy_async<16>(&stage.x[r][k], copied ? p.x + token[r] * p.D + d + k : p.x, copied);
  }
  for (int j = me / kPieces; j < kCells; j += kThreads / kPieces) {
    const bool copied = inside && j < cells;
    copy_async<16>(&stage.w[j][k], copied ? p.w + (m + j) * p.D + d + k : p.w, copied);
  }
}

__device__ __forceinline__ void add_stage(FragmentC (&sum)[2][4], const Stage& stage, int row, int column) {
  for (int k = 0; k < kDepth; k += 16) {
    FragmentA a[2];
    FragmentB b[2][2];
    for (int i = 0; i < 2; ++i) load_a(a[i], &stage.x[row + 16 * i][k], kStride);
    for (int j = 0; j < 2; ++j) load_b_columns(b[j], &stage.w[column + 16 * j][k], kStride);
    for (int i = 0; i < 2; ++i) {
      for (int j = 0; j < 4; ++j) multiply_add(sum[i][j], a[i], b[j / 2][j % 2]);
    }
  }
}

__device__ __forceinline__ void write_sums(const Projection<bfloat16>& p, const FragmentC (&sum)[2][4],
                                           const RowTile& rows, int64_t cell, int row, int column) {
  const int g = lane_of_warp() / 4, t = lane_of_warp() % 4;
  for (int j = 0; j < 4; ++j) {
    const int64_t c = cell + column + 8 * j + 2 * t;
    if (c >= p.G) continue;
    const float* bias = p.bias != nullptr ? p.bias + rows.block * p.G + c : nullptr;
    const bool second = c + 1 < p.G;
    const float low = bias != nullptr ? bias[0] : 0.0f, high = bias != nullptr && second ? bias[1] : 0.0f;
    for (int half = 0; half < 4; ++half) {
      const int64_t to = rows.first + row + 8 * half + g;
      if (to >= rows.last) continue;
      const float* at = sum[half / 2][j].at + half % 2 * 2;
      Pack<bfloat16, 2> pair;
      store(pair.at[0], at[0] + low), store(pair.at[1], at[1] + high);
      if (p.pairs_fit) {
        *reinterpret_cast<Pack<bfloat16, 2>*>(p.z + to * p.G + c) = pair;
      } else {
        p.z[to * p.G + c] = pair.at[0];
        if (second) p.z[to * p.G + c + 1] = pair.at[1];
      }
    }
  }
}

__global__ void __launch_bounds__(kThreads) project_on_tensor_cores_kernel(Projection<bfloat16> p) {
  auto* stages = dynamic_shared<Stage>();
  __shared__ int32_t token[kRows];  // -1 behind the last row
  const RowTile rows = tile_of_slot<kRows>(p.rows, p.pairs, blockIdx.x / p.parts);
  if (rows.first >= rows.last) return;
  const int me = static_cast<int>(threadIdx.x), row = me / 64 * 32, column = me / 32 % 2 * 32;
  const int64_t cell = blockIdx.x % p.parts * kCells, cells = p.G - cell, m = rows.block * p.G + cell;
  if (me < kRows) {
    const bool exists = rows.first + me < rows.last;
    token[me] = exists ? token_of_choice(p.rows, p.rows.order[rows.first + me]) : -1;
  }
  __syncthreads();
  const bool useful = rows.first + row < rows.last && column < cells;  // for this warp
  const int64_t steps = (p.D + kDepth - 1) / kDepth;
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < steps) ask(stages[s], p, token, m, cells, int64_t{s} * kDepth);
    commit_copies();
  }
  FragmentC sum[2][4] = {};
  for (int64_t s = 0; s < steps; ++s) {
    wait_for_copies<kStages - 2>();
    __syncthreads();  // stage s is there, and all have done with stage s - 1
    const int64_t next = s + kStages - 1;
    if (next < steps) ask(stages[next % kStages], p, token, m, cells, next * kDepth);
    commit_copies();
    if (useful) add_stage(sum, stages[s % kStages], row, column);
  }
  if (useful) write_sums(p, sum, rows, cell, row, column);
}

template <class T>
void project(Stream& stream, Projection<T> p) {
  const int64_t P = p.rows.choices();
  if (P == 0) return;
  const Work work =
      block_product_work<T>(p.rows, p.G, p.D, p.bias != nullptr ? bytes_for<float>(p.rows.blocks * p.G) : 0);
  launch(stream, clear_unused_kernel<T>, {blocks_for(P * p.G, kThreads, 1024), kThreads}, Work{bytes_for<int32_t>(1)},
         p.z, p.rows.offsets + p.pairs, P, p.G);
  if constexpr (std::is_same_v<T, bfloat16>) {
    if (packs_fit(p.D, 8, p.x, p.w)) {
      p.parts = (p.G + kCells - 1) / kCells;
      launch(stream, project_on_tensor_cores_kernel,
             {static_cast<unsigned>(tile_slots<kRows>(p.rows) * p.parts), kThreads, kStages * sizeof(Stage)}, work, p);
      return;
    }
  }
  p.parts = (p.G + kTile - 1) / kTile;
  launch(stream, project_kernel<T>, {static_cast<unsigned>(tile_slots<kTile>(p.rows) * p.parts), kTileThreads}, work,
         p);
}

}  // namespace

void block_project(Stream& stream, Tensor z, const Tensor& x, const Tensor& w, const Tensor& bias,
                   const BlockRouting& routing) {
  const BlockRows rows(routing);
  with_activation_type("block_project", x, [&]<class T>(T) {
    project(stream, Projection<T>{.z = z.data<T>(),
                                  .x = x.data<T>(),
                                  .w = w.data<T>(),
                                  .bias = bias.data_or_null<float>(),
                                  .rows = rows,
                                  .pairs = pairs_of(rows),
                                  .G = z.cols(),
                                  .D = x.cols(),
                                  .parts = 0,
                                  .pairs_fit = packs_fit(z.cols(), 2, z.data<T>())});
  });
}

}  // namespace sffn::cuda
