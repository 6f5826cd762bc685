// What attention forward and backward share on warpgroups (wgmma.cuh), for bf16 heads of exactly 64 or 128 columns:
// tiles of rows of heads in panels (panel.cuh) of 64 columns. A warpgroup owns 64 rows, 16 a warp, so that lanes hold
// of scores and sums what they hold in attention_mma.cuh, whose tiles of queries and keys, masks and dropout serve
// here.
#pragma once
#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/wgmma_held.cuh"

namespace sffn::cuda::attention::wgmma {

using mma::kLog2E;
using mma::lane_column;
using mma::lane_row;

inline constexpr int kGroupThreads = 128, kGroupRows = 64, kStep = 64;  // rows of the other side in a step

// The same for the warp, and the compiler knows: products stay under way only where no lane can be apart.
__device__ __forceinline__ int uniform(int value) { return __shfl_sync(0xffffffffu, value, 0); }

// kWarpgroups of 64 rows each; kBlocks blocks are to fit a multiprocessor without spills.
template <int kWidth, int kWarpgroups, int kBlocks>
struct Cut : mma::Cut<kWidth, 4 * kWarpgroups, 1, kStep, kStep, false, kBlocks> {
  static constexpr int kPanels = kWidth / kPanelWidth;
  static constexpr int kTile = kWarpgroups * kGroupRows * kWidth, kStage = kStep * kWidth;  // elements
  using Row = FragmentC[kStep / 8];
  using Sum = FragmentC[kWidth / 8];

  // `tiles` tiles of the block's own rows and `stages` of as many of the other side.
  static constexpr size_t shared_bytes(int tiles, int stages) {
    return static_cast<size_t>(tiles * kTile + stages * kStage) * sizeof(bfloat16) + kPanelAlignment;
  }
  static __device__ int group() { return uniform(static_cast<int>(threadIdx.x) / kGroupThreads); }
};

// The thread's pieces of the rows of one tile after the other, kRows a tile, on their way to panels.
template <class C, int kRows>
struct RowPieces {
  static constexpr int kPieces = C::kWidth / kPiece, kRowsAtOnce = C::kThreads / kPieces;
  static_assert(kRowsAtOnce % 8 == 0);
  const bfloat16* from;
  int rows_at_once;  // in elements
  int to, count;     // where in a tile; rows from the first on that exist

  // From source[0], of `rows` rows.
  __device__ __forceinline__ RowPieces(const bfloat16* source, int64_t step, int rows) {
    const int first = static_cast<int>(threadIdx.x) / kPieces, piece = static_cast<int>(threadIdx.x) % kPieces;
    bfloat16* origin = nullptr;
    to = static_cast<int>(piece_at(origin + piece / kPanelPieces * kRows * kPanelWidth, first, piece % kPanelPieces) -
                          origin);
    from = source + (first * step + piece * kPiece);
    rows_at_once = kRowsAtOnce * static_cast<int>(step);
    count = rows - first;
  }
  // Asks for the tile, `further` elements from it.
  __device__ __forceinline__ void ask(bfloat16* tile, int further = 0) const {
    SFFN_UNROLL for (int i = 0; i < kRows; i += kRowsAtOnce) {
      const int rows = kRows - i < kRowsAtOnce ? kRows - i : kRowsAtOnce;  // all but for the last
      if (rows == kRowsAtOnce || static_cast<int>(threadIdx.x) < rows * kPieces) {
        copy_async<16>(tile + to + i * kPanelWidth, from + (i / kRowsAtOnce * rows_at_once + further), i < count);
      }
    }
  }
  // On to the next tile.
  __device__ __forceinline__ void advance() {
    from += rows_at_once / kRowsAtOnce * kRows;
    count -= kRows;
  }
};

// Descriptors of the left and the right factor of multiply_rows, and of the right one of add_rows.
__device__ __forceinline__ uint64_t describe_own(const bfloat16* tile, int group) {
  return describe_along(tile, group * kGroupRows, 0);
}
__device__ __forceinline__ uint64_t describe_rows(const bfloat16* stage) { return describe_along(stage, 0, 0); }
__device__ __forceinline__ uint64_t describe_columns(const bfloat16* stage) {
  return describe_across(stage, kStep * kPanelWidth * static_cast<int>(sizeof(bfloat16)), 0);
}

// s = a·bᵀ: the warpgroup's rows of a tile, the kStep rows of a stage. Under way afterwards.
template <class C>
__device__ __forceinline__ void multiply_rows(typename C::Row& s, uint64_t a, uint64_t b) {
  begin_products();
  SFFN_UNROLL for (int k = 0; k < C::kWidth; k += 16) {
    const int panel = k / kPanelWidth, depth = k % kPanelWidth;
    add_products<false>(s, further(a, panel * C::kRows * kPanelWidth + depth),
                        further(b, panel * kStep * kPanelWidth + depth), k > 0);
  }
  commit_products();
}

// sum += p·x: the columns of p are the kStep rows of a stage. Under way afterwards.
template <class C>
__device__ __forceinline__ void add_rows(typename C::Sum& sum, const FragmentA (&p)[kStep / 16], uint64_t x) {
  begin_products();
  SFFN_UNROLL for (int k = 0; k < kStep; k += 16) {
    add_products_of_held<true>(sum, p[k / 16], further(x, k * kPanelWidth));
  }
  commit_products();
}

// Rounded to bf16 as the left factor of add_rows.
template <class Row>
__device__ __forceinline__ void round_to_factors(FragmentA (&p)[kStep / 16], const Row& s) {
  SFFN_UNROLL for (int k = 0; k < kStep / 16; ++k) p[k] = as_factor(s[2 * k], s[2 * k + 1]);
}

// As mma::store_rows, through the warp's rows of a tile, which no product reads any more.
template <class C>
__device__ __forceinline__ void store_rows(bfloat16* to, int64_t step, int count, bfloat16* tile,
                                           const typename C::Sum& sum, const float (&factor)[2]) {
  constexpr int kPieces = C::kWidth / kPiece;
  const auto piece_of = [&](int row, int piece) {
    return piece_at(tile + piece / kPanelPieces * C::kRows * kPanelWidth, C::warp_row() + row, piece % kPanelPieces);
  };
  SFFN_UNROLL for (int half = 0; half < 2; ++half) {
    SFFN_UNROLL for (int c = 0; c < kPieces; ++c) {
      const float *at = sum[c].at + 2 * half, by = factor[half];
      *reinterpret_cast<Pack<bfloat16, 2>*>(piece_of(8 * half + lane_row(), c) + lane_column()) =
          std::bit_cast<Pack<bfloat16, 2>>(rounded_pair(by * at[0], by * at[1]));
    }
  }
  __syncwarp();
  SFFN_UNROLL for (int item = lane_of_warp(); item < C::kWarpRows * kPieces; item += 32) {
    const int row = item / kPieces, piece = item % kPieces;
    if (row >= count) continue;
    *reinterpret_cast<Pack<bfloat16, 8>*>(to + row * step + piece * kPiece) =
        *reinterpret_cast<const Pack<bfloat16, 8>*>(piece_of(row, piece));
  }
}

}  // namespace sffn::cuda::attention::wgmma
