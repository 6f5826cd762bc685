// out = dropout(softmax(scale·q kᵀ, masked)) v, causal; lse = log Σ exp of the scores of a row
// out [N, H·d_h] act  lse [B,H,T] f32  qkv [N, (H+2·H_kv)·d_h] act
// A block takes a tile of queries of one head and goes over the tiles of keys that they see, with a running maximum and
// sum of each row (Dao et al., arXiv 2205.14135; Milakov & Gimelshein, arXiv 1805.02867). Any type and size: products
// by fp32 multiply-adds, keys and values in one tile of shared memory in turn, the longest tiles of queries first. bf16
// heads of 64 or 128 columns: 128 queries on tensor cores (attention_mma.cuh), 32 a warp; the next tile of keys and
// values arrives while one is used; where there are warpgroups: attention_forward_wgmma.cuh.
#include "kernels/cuda/attention_forward_wgmma.cuh"
#include "kernels/cuda/attention_mma.cuh"
#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace attention {
namespace {

// The running softmax of a thread's rows. `sum` is of the thread's own columns until finish.
template <int kPer>
struct RunningSoftmax {
  float largest[kPer], sum[kPer];

  __device__ void begin() { SFFN_UNROLL for (int i = 0; i < kPer; ++i) largest[i] = -FLT_MAX, sum[i] = 0; }
  // s = exp(s - m') with the new maximum m' of row i; returns exp(m - m'), what earlier sums shrink by.
  __device__ float add(float (&s)[kPer], int i) {
    float most = largest[i];
    SFFN_UNROLL for (int j = 0; j < kPer; ++j) most = s[j] > most ? s[j] : most;
    most = reduce_row(most, Max());
    const float shrink = expf(largest[i] - most);
    largest[i] = most;
    sum[i] *= shrink;
    SFFN_UNROLL for (int j = 0; j < kPer; ++j) {
      s[j] = expf(s[j] - most);
      sum[i] += s[j];
    }
    return shrink;
  }
};

template <int kWidth, class T>
__global__ void __launch_bounds__(kThreads)
    attention_forward_kernel(T* out, float* lse, const T* qkv, const int32_t* segment_start, Heads heads,
                             DropoutSite site, int64_t pairs) {
  const DropoutMask dropout(site);
  using Tile = Tiles<kWidth>;
  constexpr int kPer = Tile::kPer, kTile = Tile::kTile;
  __shared__ int32_t start[kTile];
  float* queries = dynamic_shared<float>();
  float* rows = queries + kTile * heads.stride;  // keys, then values
  float* scores = rows + kTile * heads.stride;
  const int64_t pair = blockIdx.x % pairs, tiles = gridDim.x / pairs;
  const int64_t q0 = (tiles - 1 - blockIdx.x / pairs) * kTile, sequence = pair / heads.heads;
  const int head = static_cast<int>(pair % heads.heads), kv = heads.kv_head(head);
  const int64_t token = sequence * heads.time, left = heads.time - q0;
  if (threadIdx.x < kTile) {
    start[threadIdx.x] = segment_start != nullptr && threadIdx.x < left ? segment_start[token + q0 + threadIdx.x] : 0;
  }
  load_tile<kWidth>(queries, heads, qkv + heads.query(token + q0, head), heads.qkv_width, left, heads.scale);
  __syncthreads();
  int32_t lowest = start[0];
  for (int i = 1; i < kTile && i < left; ++i) lowest = start[i] < lowest ? start[i] : lowest;
  RunningSoftmax<kPer> softmax;
  softmax.begin();
  typename Tile::Sums sums = {};
  for (int64_t k0 = lowest / kTile * kTile; k0 <= q0; k0 += kTile) {
    const int64_t keys = heads.time - k0;
    load_tile<kWidth>(rows, heads, qkv + heads.key(token + k0, kv), heads.qkv_width, keys, 1);
    __syncthreads();
    typename Tile::Scores s;
    multiply_rows<kWidth>(s, queries, rows, heads);
    SFFN_UNROLL for (int i = 0; i < kPer; ++i) {
      const int row = thread_y() * kPer + i;
      SFFN_UNROLL for (int j = 0; j < kPer; ++j) {
        const int64_t key = k0 + thread_x() * kPer + j;
        if (key > q0 + row || key < start[row] || row >= left) s[i][j] = -INFINITY;
      }
      const float shrink = softmax.add(s[i], i);
      SFFN_UNROLL for (int c = 0; c < 4 * Tile::kGroups; ++c) sums[i][c] *= shrink;
      if (dropout.threshold > 0) {
        float factor[kPer];
        dropout.factors(factor, (pair * heads.time + q0 + row) * heads.time + k0 + thread_x() * kPer);
        SFFN_UNROLL for (int j = 0; j < kPer; ++j) s[i][j] *= factor[j];
      }
    }
    store_scores<kWidth>(scores, s);
    __syncthreads();
    load_tile<kWidth>(rows, heads, qkv + heads.value(token + k0, kv), heads.qkv_width, keys, 1);
    __syncthreads();
    add_rows<kWidth>(sums, scores, rows, heads);
    __syncthreads();
  }
  SFFN_UNROLL for (int i = 0; i < kPer; ++i) {
    const int row = thread_y() * kPer + i;
    const float sum = reduce_row(softmax.sum[i], Sum());
    if (row >= left) continue;
    store_row<kWidth>(out + heads.out(token + q0 + row, head), sums, i, 1 / sum, heads);
    if (thread_x() == 0) lse[pair * heads.time + q0 + row] = softmax.largest[i] + logf(sum);
  }
}

}  // namespace

namespace mma {
namespace {

// 32 queries a warp: of each byte of keys and values that it reads from shared memory it makes twice the products.
template <int kWidth>
using ForwardCut = std::conditional_t<kWidth == 64, Cut<64, 4, 2, 64, 64, false, 2>, Cut<128, 4, 2, 32, 32, false, 2>>;

// The running softmax of the lane's rows. `sum` is of the lane's own columns until finish.
template <class C>
struct RunningSoftmax {
  float largest[2 * C::kRowTiles], sum[2 * C::kRowTiles];

  __device__ void begin() { SFFN_UNROLL for (int r = 0; r < 2 * C::kRowTiles; ++r) largest[r] = -INFINITY, sum[r] = 0; }
  // s = 2^(factor·(s - m')) with the new maximum m' of each row, and what was summed before shrinks to it. A row that
  // has seen no key yet keeps the maximum -infinity.
  __device__ __forceinline__ void add(typename C::Scores& s, typename C::Sums& sums, float factor) {
    SFFN_UNROLL for (int r = 0; r < 2 * C::kRowTiles; ++r) {
      const int i = r / 2, half = r % 2 * 2;
      float most = largest[r];
      SFFN_UNROLL for (int n = 0; n < C::kStep / 8; ++n) {
        most = Largest()(most, Largest()(s[i][n].at[half], s[i][n].at[half + 1]));
      }
      most = quad_reduce(most, Largest());
      const float shift = most == -INFINITY ? 0.0f : most * factor;
      const float shrink = exp2_fast(largest[r] * factor - shift);
      largest[r] = most;
      sum[r] *= shrink;
      SFFN_UNROLL for (int c = 0; c < C::kWidth / 8; ++c) {
        SFFN_UNROLL for (int e = half; e < half + 2; ++e) sums[i][c].at[e] *= shrink;
      }
      SFFN_UNROLL for (int n = 0; n < C::kStep / 8; ++n) {
        SFFN_UNROLL for (int e = half; e < half + 2; ++e) {
          s[i][n].at[e] = exp2_fast(s[i][n].at[e] * factor - shift);
          sum[r] += s[i][n].at[e];
        }
      }
    }
  }
};

template <int kWidth, bool kDropout>
__global__ void __launch_bounds__(ForwardCut<kWidth>::kThreads, ForwardCut<kWidth>::least_blocks(kDropout))
    attention_forward_mma_kernel(bfloat16* out, float* lse, const bfloat16* qkv, const int32_t* segment_start,
                                 Heads heads, DropoutSite site) {
  const ProbabilityDropout dropout(site, heads.time);
  using C = ForwardCut<kWidth>;
  bfloat16* queries = dynamic_shared<bfloat16>();
  bfloat16* stages = queries + C::kTileSize;  // of keys, then values
  const QueryTile<C> tile(heads, segment_start);
  const int kv = heads.kv_head(tile.head), time = static_cast<int>(heads.time);
  const auto ask_stage = [&](int stage, int k0) {
    bfloat16* keys = stages + stage * 2 * C::kStageSize;
    ask_rows<C, C::kOther>(keys, qkv + heads.key(tile.token + k0, kv), heads.qkv_width, time - k0);
    ask_rows<C, C::kOther>(keys + C::kStageSize, qkv + heads.value(tile.token + k0, kv), heads.qkv_width, time - k0);
  };
  int k0 = tile.first_key(segment_start);
  ask_rows<C, C::kRows>(queries, qkv + heads.query(tile.token + tile.q0, tile.head), heads.qkv_width, time - tile.q0);
  ask_stage(0, k0);
  commit_copies();
  OwnRows<C> own(queries);
  const float factor = heads.scale * kLog2E;
  RunningSoftmax<C> softmax;
  softmax.begin();
  typename C::Sums sums = {};
  for (int stage = 0; k0 <= tile.last; k0 += C::kOther, stage ^= 1) {
    wait_for_copies<0>();
    __syncthreads();  // the stage is there for all, and all have done with the other
    if (k0 + C::kOther <= tile.last) ask_stage(stage ^ 1, k0 + C::kOther);
    commit_copies();
    if (!tile.sees(k0)) continue;
    const bfloat16* keys = stages + stage * 2 * C::kStageSize;
    typename C::Scores s;
    multiply_rows<C>(s, own, keys);
    if (tile.masks(k0)) tile.mask(s, k0);
    softmax.add(s, sums, factor);
    if constexpr (kDropout) drop(s, dropout, tile, k0);
    add_rows<C>(sums, s, keys + C::kStageSize);
  }
  float by[2 * C::kRowTiles];
  SFFN_UNROLL for (int r = 0; r < 2 * C::kRowTiles; ++r) {
    const float sum = quad_reduce(softmax.sum[r], Sum());
    by[r] = (kDropout ? dropout.mask.kept : 1.0f) / sum;
    if (lane_column() == 0 && tile.has(r)) {
      lse[tile.pair * heads.time + tile.lane_query(r)] = heads.scale * softmax.largest[r] + logf(sum);
    }
  }
  store_rows<C>(out + heads.out(tile.token + tile.query, tile.head), heads.out_width, tile.warp_count(), own.rows, sums,
                by);
}

}  // namespace
}  // namespace mma
}  // namespace attention

void attention_forward(Stream& stream, Tensor out, Tensor lse, const Tensor& qkv, const Tensor& segment_start,
                       const AttentionShape& shape, const Dropout& dropout) {
  using namespace attention;
  if (qkv.numel() == 0) return;
  const auto* start = segment_start.data_or_null<int32_t>();
  const int64_t pairs = shape.batch * shape.heads;
  with_activation_type("attention_forward", qkv, [&]<class T>(T) {
    const Heads heads(shape, rows_are_packs<T>(shape.head_dim, {out.raw(), qkv.raw()}));
    const Work work{bytes_of(out, lse, qkv, segment_start), 2 * causal_flops(shape), kOnTensorCores<T>};
    if (mma::suits<T>(shape, heads)) {
      const bool warpgroups = native(stream).warpgroups;
      return mma::with_kernel(shape, dropout, [&](auto width, auto drops) {
        const auto run = [&]<class C>(C, auto kernel, size_t shared_bytes) {
          launch(stream, kernel, {blocks_for(pairs * blocks_for(shape.time, C::kRows), 1), C::kThreads, shared_bytes},
                 work, out.data<bfloat16>(), lse.data<float>(), qkv.data<bfloat16>(), start, heads,
                 DropoutSite(dropout));
        };
        using Mma = mma::ForwardCut<width>;
        using Wgmma = wgmma::ForwardCut<width, drops>;
        warpgroups ? run(Wgmma(), wgmma::attention_forward_wgmma_kernel<width, drops>, Wgmma::shared_bytes(1, 5))
                   : run(Mma(), mma::attention_forward_mma_kernel<width, drops>, Mma::shared_bytes(1, 2));
      });
    }
    with_width("attention_forward", shape.head_dim, [&]<int kWidth>(std::integral_constant<int, kWidth>) {
      const int64_t tiles = blocks_for(shape.time, Tiles<kWidth>::kTile);
      launch(stream, attention_forward_kernel<kWidth, T>,
             {blocks_for(pairs * tiles, 1), kThreads, shared_bytes<kWidth>(2, heads)}, work, out.data<T>(),
             lse.data<float>(), qkv.data<T>(), start, heads, DropoutSite(dropout), pairs);
    });
  });
}

}  // namespace sffn::cuda
