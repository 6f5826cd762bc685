// What attention forward and backward share on tensor cores, for bf16 heads of exactly 64 or 128 columns (Dao, arXiv
// 2307.08691): tiles of rows of heads in shared memory, and the products between them. A warp owns 16·kRowTiles rows of
// its block's tile in every product of a kernel: scores and probabilities stay in its registers, where the result of
// one product is rounded to be the left factor of the next. What a block goes over comes in two stages of asynchronous
// copies. Exponentials are to base 2: p = 2^(scale·log₂e·s - m).
//
// Rows of a tile are 16 bytes longer than a power of two, so that the 8 rows of a matrix that ldmatrix reads together,
// and the fragments of 8 rows that a warp writes, lie in 32 different banks.
#pragma once
#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/exp2.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/reduce.cuh"

#include <type_traits>

namespace sffn::cuda::attention::mma {

inline constexpr float kLog2E = 1.44269504088896341f;

// Whether attention runs on tensor cores; the only place that decides. The maximum of scores is that of scale·scores
// only where scale is positive.
template <class T>
bool suits(const AttentionShape& shape, const Heads& heads) {
  const bool width = shape.head_dim == 64 || shape.head_dim == 128;
  return std::is_same_v<T, bfloat16> && width && heads.aligned && shape.scale > 0;
}

// f(kWidth, kDropout) of a call that suits.
template <class F>
void with_kernel(const AttentionShape& shape, const Dropout& dropout, F&& f) {
  with_constant(dropout.probability > 0, [&]<bool kDropout>(std::bool_constant<kDropout>) {
    if (shape.head_dim == 64) return f(std::integral_constant<int, 64>(), std::bool_constant<kDropout>());
    f(std::integral_constant<int, 128>(), std::bool_constant<kDropout>());
  });
}

// A tile of 16·kRowTiles rows a warp, against kOther rows of the other side a stage, kStep of them at once in
// registers. kHeld: the warp's own rows stay in registers, too. kBlocks blocks are to fit a multiprocessor, without
// spills: the registers decide (docs/kernel_resources.md).
template <int kWidth_, int kWarps_, int kRowTiles_, int kOther_, int kStep_, bool kHeld_, int kBlocks_>
struct Cut {
  static constexpr int kWidth = kWidth_, kWarps = kWarps_, kThreads = 32 * kWarps, kRowTiles = kRowTiles_;
  static constexpr int kOther = kOther_, kStep = kStep_, kBlocks = kBlocks_;
  static constexpr bool kHeld = kHeld_;
  static constexpr int kWarpRows = 16 * kRowTiles, kRows = kWarps * kWarpRows;
  static constexpr int kStride = kWidth + 8;
  static constexpr int kTileSize = kRows * kStride, kStageSize = kOther * kStride;
  using Scores = FragmentC[kRowTiles][kStep / 8];
  using Sums = FragmentC[kRowTiles][kWidth / 8];

  // Of `tiles` tiles of the block's own rows, and two stages of as many tiles of the other side.
  static constexpr size_t shared_bytes(int tiles, int others, size_t more_a_stage = 0) {
    return static_cast<size_t>(tiles * kTileSize + 2 * others * kStageSize) * sizeof(bfloat16) + 2 * more_a_stage;
  }
  // One fewer with dropout, whose random numbers take registers.
  static constexpr int least_blocks(bool dropout) { return dropout && kBlocks > 1 ? kBlocks - 1 : kBlocks; }
  static __device__ int warp_row() { return static_cast<int>(threadIdx.x) / 32 * kWarpRows; }
};

// Of a FragmentC, this lane has rows lane_row(), lane_row() + 8 and columns lane_column(), lane_column() + 1.
__device__ __forceinline__ int lane_row() { return lane_of_warp() / 4; }
__device__ __forceinline__ int lane_column() { return lane_of_warp() % 4 * 2; }

struct Min {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a < b ? a : b;
  }
};

// Over the four lanes that share rows of a FragmentC.
template <class Op>
__device__ __forceinline__ float quad_reduce(float value, Op op) {
  value = op(value, __shfl_xor_sync(0xffffffffu, value, 1));
  return op(value, __shfl_xor_sync(0xffffffffu, value, 2));
}
struct Largest {  // of numbers; NaN stands in the exponentials
  __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// Asks for kRows rows of a tile: tile[row] = source[row·step …], zeros from row `count`.
template <class C, int kRows>
__device__ __forceinline__ void ask_rows(bfloat16* tile, const bfloat16* source, int64_t step, int count) {
  constexpr int kPieces = C::kWidth / 8, kRowsAtOnce = C::kThreads / kPieces;
  static_assert(kRows % kRowsAtOnce == 0);
  const int first = static_cast<int>(threadIdx.x) / kPieces, c = static_cast<int>(threadIdx.x) % kPieces * 8;
  const bfloat16* from = source + (first * static_cast<int>(step) + c);  // a tile is less than 2^31 elements long
  SFFN_UNROLL for (int i = 0; i < kRows; i += kRowsAtOnce) {
    copy_async<16>(tile + (first + i) * C::kStride + c, from, first + i < count);  // beyond count `from` is not read
    from += kRowsAtOnce * step;
  }
}

// The warp's own rows of a tile as left factors.
template <class C>
struct OwnRows {
  bfloat16* rows;
  FragmentA held[C::kHeld ? C::kWidth / 16 : 1][C::kRowTiles];

  __device__ __forceinline__ explicit OwnRows(bfloat16* tile) : rows(tile + C::warp_row() * C::kStride) {}
  __device__ __forceinline__ FragmentA read(int k, int i) const {
    FragmentA factor;
    load_a(factor, rows + 16 * i * C::kStride + 16 * k, C::kStride);
    return factor;
  }
  // When the tile is there.
  __device__ __forceinline__ void hold() {
    SFFN_UNROLL for (int k = 0; k < C::kWidth / 16; ++k) {
      SFFN_UNROLL for (int i = 0; i < C::kRowTiles; ++i) held[k][i] = read(k, i);
    }
  }
  __device__ __forceinline__ FragmentA at(int k, int i) const {
    if constexpr (C::kHeld) {
      return held[k][i];
    } else {
      return read(k, i);
    }
  }
};

// s = a·bᵀ: the warp's rows of a, kStep rows of b
template <class C>
__device__ __forceinline__ void multiply_rows(typename C::Scores& s, const OwnRows<C>& a, const bfloat16* b) {
  SFFN_UNROLL for (int i = 0; i < C::kRowTiles; ++i) {
    SFFN_UNROLL for (int n = 0; n < C::kStep / 8; ++n) s[i][n] = {};
  }
  SFFN_UNROLL for (int k = 0; k < C::kWidth / 16; ++k) {
    FragmentA left[C::kRowTiles];
    SFFN_UNROLL for (int i = 0; i < C::kRowTiles; ++i) left[i] = a.at(k, i);
    SFFN_UNROLL for (int n = 0; n < C::kStep / 8; n += 2) {
      FragmentB right[2];
      load_b_columns(right, b + 8 * n * C::kStride + 16 * k, C::kStride);
      SFFN_UNROLL for (int i = 0; i < C::kRowTiles; ++i) {
        multiply_add(s[i][n], left[i], right[0]);
        multiply_add(s[i][n + 1], left[i], right[1]);
      }
    }
  }
}

// sums += bf16(p)·x: the columns of p are the kStep rows of x
template <class C>
__device__ __forceinline__ void add_rows(typename C::Sums& sums, const typename C::Scores& p, const bfloat16* x) {
  SFFN_UNROLL for (int n = 0; n < C::kStep / 8; n += 2) {
    FragmentA left[C::kRowTiles];
    SFFN_UNROLL for (int i = 0; i < C::kRowTiles; ++i) left[i] = as_factor(p[i][n], p[i][n + 1]);
    SFFN_UNROLL for (int c = 0; c < C::kWidth / 8; c += 2) {
      FragmentB right[2];
      load_b_columns_transposed(right, x + 8 * n * C::kStride + 8 * c, C::kStride);
      SFFN_UNROLL for (int i = 0; i < C::kRowTiles; ++i) {
        multiply_add(sums[i][c], left[i], right[0]);
        multiply_add(sums[i][c + 1], left[i], right[1]);
      }
    }
  }
}

// to[row·step …] = factor[2i + half]·sums of the warp's rows, `count` of which exist. They go through the warp's rows
// of a tile, so that neighbouring lanes write 16 neighbouring bytes.
template <class C>
__device__ __forceinline__ void store_rows(bfloat16* to, int64_t step, int count, bfloat16* rows,
                                           const typename C::Sums& sums, const float (&factor)[2 * C::kRowTiles]) {
  constexpr int kPieces = C::kWidth / 8;
  __syncwarp();  // the other lanes have read these rows
  SFFN_UNROLL for (int i = 0; i < C::kRowTiles; ++i) {
    SFFN_UNROLL for (int half = 0; half < 2; ++half) {
      bfloat16* row = rows + (16 * i + 8 * half + lane_row()) * C::kStride + lane_column();
      SFFN_UNROLL for (int c = 0; c < C::kWidth / 8; ++c) {
        const float *at = sums[i][c].at + 2 * half, by = factor[2 * i + half];
        *reinterpret_cast<Pack<bfloat16, 2>*>(row + 8 * c) =
            std::bit_cast<Pack<bfloat16, 2>>(rounded_pair(by * at[0], by * at[1]));
      }
    }
  }
  __syncwarp();
  SFFN_UNROLL for (int item = lane_of_warp(); item < C::kWarpRows * kPieces; item += 32) {
    const int row = item / kPieces, c = item % kPieces * 8;
    if (row >= count) continue;
    *reinterpret_cast<Pack<bfloat16, 8>*>(to + row * step + c) =
        *reinterpret_cast<const Pack<bfloat16, 8>*>(rows + row * C::kStride + c);
  }
}

// The tile of queries of a block, of kernels that go over keys, and what its warp and its lanes see of them. Tiles of
// one head are neighbours, so that its keys and values stay in L2; the last ones, which see most, begin first.
template <class C>
struct QueryTile {
  int64_t token;   // the first of the sequence
  int pair, head;  // of sequence and head
  int q0, last;    // first and last query of the tile
  int query;       // the first of the warp's
  // The first keys that the lane's rows see: of row 16·i + 8·half + lane_row() at 2i + half.
  int32_t start[2 * C::kRowTiles];
  int32_t lowest = 0, highest = 0;  // of the warp's

  __device__ __forceinline__ QueryTile(const Heads& heads, const int32_t* segment_start) {
    const int tiles = static_cast<int>((heads.time + C::kRows - 1) / C::kRows);
    const int block = static_cast<int>(blockIdx.x);
    pair = block / tiles;
    head = pair % heads.heads;
    token = pair / heads.heads * heads.time;
    q0 = (tiles - 1 - block % tiles) * C::kRows;
    const int end = q0 + C::kRows, time = static_cast<int>(heads.time);
    last = (end < time ? end : time) - 1;
    query = q0 + C::warp_row();
    SFFN_UNROLL for (int r = 0; r < 2 * C::kRowTiles; ++r) {
      start[r] = segment_start != nullptr ? segment_start[token + existing(r)] : 0;
    }
    if (segment_start == nullptr) return;
    lowest = highest = start[0];
    SFFN_UNROLL for (int r = 1; r < 2 * C::kRowTiles; ++r) {
      lowest = Min()(lowest, start[r]), highest = Max()(highest, start[r]);
    }
    lowest = warp_reduce(lowest, Min()), highest = warp_reduce(highest, Max());
  }

  __device__ int lane_query(int r) const { return query + 8 * r + lane_row(); }
  __device__ int existing(int r) const { return Min()(lane_query(r), last); }  // beyond the last: the last
  __device__ bool has(int r) const { return lane_query(r) <= last; }
  __device__ int warp_count() const { return last - query + 1; }  // may be negative

  // Where the tiles of keys that a row of the block sees begin. Has a barrier.
  __device__ __forceinline__ int first_key(const int32_t* segment_start) const {
    __shared__ int32_t of_warp[C::kWarps];
    if (segment_start == nullptr) return 0;
    if (lane_of_warp() == 0) of_warp[threadIdx.x / 32] = lowest;
    __syncthreads();
    int32_t first = of_warp[0];
    SFFN_UNROLL for (int w = 1; w < C::kWarps; ++w) first = Min()(first, of_warp[w]);
    return first / C::kOther * C::kOther;
  }
  // Of kStep keys from `key`: whether the warp sees one, and whether one of its rows does not see them all.
  __device__ bool sees(int key) const { return query <= last && key < query + C::kWarpRows && key + C::kStep > lowest; }
  __device__ bool masks(int key) const { return key + C::kStep - 1 > query || key < highest; }
  // s = -infinity where a query does not see a key of kStep from `key`.
  __device__ __forceinline__ void mask(typename C::Scores& s, int key) const {
    SFFN_UNROLL for (int r = 0; r < 2 * C::kRowTiles; ++r) {
      SFFN_UNROLL for (int n = 0; n < C::kStep / 8; ++n) {
        SFFN_UNROLL for (int e = 0; e < 2; ++e) {
          const int at = key + 8 * n + lane_column() + e;
          if (at > lane_query(r) || at < start[r]) s[r / 2][n].at[r % 2 * 2 + e] = -INFINITY;
        }
      }
    }
  }
};

// Dropout of probabilities, by the elements of a FragmentC. A Philox block has the bits of 4 neighbouring keys of a
// query: where blocks begin at multiples of 4 keys, each is made by one lane and shown to those that have its keys.
struct ProbabilityDropout {
  DropoutMask mask;
  int64_t time;
  bool whole_blocks;

  __device__ ProbabilityDropout(const DropoutSite& site, int64_t keys)
      : mask(site), time(keys), whole_blocks(mask.first % 4 == 0 && keys % 4 == 0) {}

  // The element of key 0 of a query of a pair of sequence and head.
  __device__ uint64_t row(int64_t pair, int64_t query) const {
    return static_cast<uint64_t>((pair * time + query) * time);
  }
  // Bit i: whether element i of 4 is dropped, of the Philox block that begins with `element`.
  __device__ __forceinline__ unsigned block(uint64_t element) const {
    const Random4 bits = philox(mask.key, (mask.first + element) / 4);
    unsigned dropped = 0;
    SFFN_UNROLL for (int i = 0; i < 4; ++i) dropped |= static_cast<unsigned>(mask.drops(bits[i])) << i;
    return dropped;
  }
  // Rows are queries, columns keys. Bit e: whether at[e] is dropped; `element` is that of at[0].
  __device__ __forceinline__ unsigned of_queries(uint64_t element) const {
    if (whole_blocks) {
      const bool odd = lane_of_warp() % 2 != 0;  // has columns 2, 3 of a block, and makes the block of the lower row
      const unsigned mine = block(odd ? element + 8 * time - 2 : element);
      const unsigned other = __shfl_xor_sync(0xffffffffu, mine, 1);
      return odd ? other >> 2 | (mine & 12) : (mine & 3) | (other & 3) << 2;
    }
    unsigned dropped = 0;
    SFFN_UNROLL for (int half = 0; half < 2; ++half) {
      uint32_t bits[2];
      random_bits_from(bits, mask.key, mask.first + element + 8 * half * time);
      SFFN_UNROLL for (int e = 0; e < 2; ++e) dropped |= static_cast<unsigned>(mask.drops(bits[e])) << (2 * half + e);
    }
    return dropped;
  }
  // Rows are keys, columns queries.
  __device__ __forceinline__ unsigned of_keys(uint64_t element) const {
    unsigned dropped = 0;
    if (whole_blocks) {  // of the four blocks of four lanes, this one makes the one of its at[of]
      const int of = lane_row() % 4;
      const unsigned mine = block(element - of + of % 2 * time + of / 2 * 8);
      SFFN_UNROLL for (int x = 0; x < 4; ++x) {
        const unsigned other = x == 0 ? mine : __shfl_xor_sync(0xffffffffu, mine, 4 * x);
        dropped |= (other >> of & 1) << (of ^ x);
      }
      return dropped;
    }
    SFFN_UNROLL for (int e = 0; e < 4; ++e) {
      uint32_t bits[1];
      random_bits_from(bits, mask.key, mask.first + element + e % 2 * time + e / 2 * 8);
      dropped |= static_cast<unsigned>(mask.drops(bits[0])) << e;
    }
    return dropped;
  }
};

// s = 0 where it is dropped, from the key k0 on; `kept` is a factor of the sums.
template <class C>
__device__ __forceinline__ void drop(typename C::Scores& s, const ProbabilityDropout& dropout, const QueryTile<C>& tile,
                                     int k0) {
  const uint64_t first = dropout.row(tile.pair, tile.lane_query(0)) + static_cast<uint64_t>(k0 + lane_column());
  SFFN_UNROLL for (int i = 0; i < C::kRowTiles; ++i) {
    SFFN_UNROLL for (int n = 0; n < C::kStep / 8; ++n) {
      const unsigned dropped = dropout.of_queries(first + 16 * i * dropout.time + 8 * n);
      SFFN_UNROLL for (int e = 0; e < 4; ++e) s[i][n].at[e] = (dropped >> e & 1) != 0 ? 0.0f : s[i][n].at[e];
    }
  }
}

}  // namespace sffn::cuda::attention::mma
