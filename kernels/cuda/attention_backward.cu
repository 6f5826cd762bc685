// Gradients of q, k and v from dout; probabilities P are made again from lse (Dao et al., arXiv 2205.14135, algorithm
// 4). With D_i = Σ_c dout_ic·out_ic and P' = dropout(P):
// dS = P ⊙ (dropout(dout vᵀ) - D);  dq = scale·dS k;  dk = scale·dSᵀ q;  dv = P'ᵀ dout           dqkv, overwritten
// Any type and size, by fp32 multiply-adds: three kernels, each writing what no other does, so that every sum has one
// order: D; a block a tile of queries for dq; a block a tile of keys for dk and dv, over the query heads of its key
// head and their tiles. What a block goes over uses one tile of shared memory in turn. bf16 heads of 64 or 128 columns:
// attention_backward_mma.cuh and, where there are warpgroups, attention_backward_wgmma.cuh.
#include "kernels/cuda/attention_backward_mma.cuh"
#include "kernels/cuda/attention_backward_wgmma.cuh"
#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace attention {
namespace {

// What the passes read.
template <class T>
struct Inputs {
  const T *dout, *qkv;
  const float *lse, *d;
  const int32_t* segment_start;
};

// d[pair, i] = Σ_c dout·out of query i of the head: a warp each.
template <class T>
__global__ void output_dot_kernel(float* d, const T* dout, const T* out, Heads heads, int64_t tokens) {
  const int64_t item = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
  if (item >= tokens * heads.heads) return;
  const int64_t token = item / heads.heads, head = item % heads.heads;
  const int64_t at = heads.out(token, static_cast<int>(head));
  float sum = 0;
  for (int c = static_cast<int>(threadIdx.x % 32); c < heads.head_dim; c += 32) {
    sum += to_float(dout[at + c]) * to_float(out[at + c]);
  }
  sum = warp_sum(sum);
  const int64_t pair = token / heads.time * heads.heads + head;
  if (threadIdx.x % 32 == 0) d[pair * heads.time + token % heads.time] = sum;
}

// Of a tile of queries: lse, D and the first visible key; beyond the last query nothing is visible.
template <int kTile>
struct QueryRows {
  float lse[kTile], d[kTile];
  int32_t start[kTile];
};

template <int kTile, class T>
__device__ __forceinline__ void load_query_rows(QueryRows<kTile>& rows, const Inputs<T>& in, const Heads& heads,
                                                int64_t pair, int64_t token, int64_t q0) {
  if (threadIdx.x >= kTile) return;
  const int64_t i = q0 + threadIdx.x;
  const bool exists = i < heads.time;
  rows.lse[threadIdx.x] = exists ? in.lse[pair * heads.time + i] : 0;
  rows.d[threadIdx.x] = exists ? in.d[pair * heads.time + i] : 0;
  rows.start[threadIdx.x] = !exists ? INT32_MAX : in.segment_start != nullptr ? in.segment_start[token + i] : 0;
}

// The lowest key that one of the queries sees.
template <int kTile>
__device__ __forceinline__ int32_t lowest_start(const QueryRows<kTile>& rows) {
  int32_t lowest = rows.start[0];
  for (int i = 1; i < kTile; ++i) lowest = rows.start[i] < lowest ? rows.start[i] : lowest;
  return lowest;
}

// From a score and dP = ⟨dout, v⟩ of `query` (of its tile) and `key`: the score becomes P', dP becomes dS.
template <int kTile>
__device__ __forceinline__ void score_gradient(float& score, float& dp, float factor, const QueryRows<kTile>& rows,
                                               int query, int64_t q0, int64_t key) {
  const bool visible = rows.start[query] <= key && key <= q0 + query;
  const float p = visible ? expf(score - rows.lse[query]) : 0.0f;
  dp = p * (factor * dp - rows.d[query]);
  score = factor * p;
}

template <int kWidth, class T>
__global__ void __launch_bounds__(kThreads)
    query_gradient_kernel(T* dqkv, Inputs<T> in, Heads heads, DropoutSite site, int64_t pairs) {
  const DropoutMask dropout(site);
  using Tile = Tiles<kWidth>;
  constexpr int kPer = Tile::kPer, kTile = Tile::kTile;
  __shared__ QueryRows<kTile> of;
  float* queries = dynamic_shared<float>();
  float* douts = queries + kTile * heads.stride;
  float* rows = douts + kTile * heads.stride;  // keys, values, keys
  float* scores = rows + kTile * heads.stride;
  const int64_t pair = blockIdx.x % pairs, tiles = gridDim.x / pairs;
  const int64_t q0 = (tiles - 1 - blockIdx.x / pairs) * kTile, sequence = pair / heads.heads;
  const int head = static_cast<int>(pair % heads.heads), kv = heads.kv_head(head);
  const int64_t token = sequence * heads.time, left = heads.time - q0;
  load_query_rows(of, in, heads, pair, token, q0);
  load_tile<kWidth>(queries, heads, in.qkv + heads.query(token + q0, head), heads.qkv_width, left, heads.scale);
  load_tile<kWidth>(douts, heads, in.dout + heads.out(token + q0, head), heads.out_width, left, 1);
  __syncthreads();
  typename Tile::Sums dq = {};
  for (int64_t k0 = lowest_start(of) / kTile * kTile; k0 <= q0; k0 += kTile) {
    const int64_t keys = heads.time - k0;
    const T *key_rows = in.qkv + heads.key(token + k0, kv), *value_rows = in.qkv + heads.value(token + k0, kv);
    typename Tile::Scores s, ds;
    load_tile<kWidth>(rows, heads, key_rows, heads.qkv_width, keys, 1);
    __syncthreads();
    multiply_rows<kWidth>(s, queries, rows, heads);
    __syncthreads();
    load_tile<kWidth>(rows, heads, value_rows, heads.qkv_width, keys, 1);
    __syncthreads();
    multiply_rows<kWidth>(ds, douts, rows, heads);
    SFFN_UNROLL for (int i = 0; i < kPer; ++i) {
      const int query = thread_y() * kPer + i;
      const int64_t key = k0 + thread_x() * kPer;
      float factor[kPer];
      SFFN_UNROLL for (int n = 0; n < kPer; ++n) factor[n] = 1;
      if (dropout.threshold > 0) dropout.factors(factor, (pair * heads.time + q0 + query) * heads.time + key);
      SFFN_UNROLL for (int j = 0; j < kPer; ++j) score_gradient(s[i][j], ds[i][j], factor[j], of, query, q0, key + j);
    }
    store_scores<kWidth>(scores, ds);
    __syncthreads();
    load_tile<kWidth>(rows, heads, key_rows, heads.qkv_width, keys, 1);
    __syncthreads();
    add_rows<kWidth>(dq, scores, rows, heads);
    __syncthreads();
  }
  SFFN_UNROLL for (int i = 0; i < kPer; ++i) {
    const int row = thread_y() * kPer + i;
    if (row < left) store_row<kWidth>(dqkv + heads.query(token + q0 + row, head), dq, i, heads.scale, heads);
  }
}

template <int kWidth, class T>
__global__ void __launch_bounds__(kThreads, 1)
    key_gradient_kernel(T* dqkv, Inputs<T> in, Heads heads, DropoutSite site, int64_t pairs) {
  const DropoutMask dropout(site);
  using Tile = Tiles<kWidth>;
  constexpr int kPer = Tile::kPer, kTile = Tile::kTile;
  __shared__ QueryRows<kTile> of;
  float* keys = dynamic_shared<float>();
  float* values = keys + kTile * heads.stride;
  float* rows = values + kTile * heads.stride;  // queries, gradients of outputs, queries
  float* scores = rows + kTile * heads.stride;
  const int64_t kv_pair = blockIdx.x % pairs, k0 = blockIdx.x / pairs * kTile, sequence = kv_pair / heads.kv_heads;
  const int kv = static_cast<int>(kv_pair % heads.kv_heads), group = heads.heads / heads.kv_heads;
  const int64_t token = sequence * heads.time, left = heads.time - k0;
  load_tile<kWidth>(keys, heads, in.qkv + heads.key(token + k0, kv), heads.qkv_width, left, 1);
  load_tile<kWidth>(values, heads, in.qkv + heads.value(token + k0, kv), heads.qkv_width, left, 1);
  typename Tile::Sums dk = {}, dv = {};
  for (int head = kv * group; head < (kv + 1) * group; ++head) {
    const int64_t pair = sequence * heads.heads + head;
    for (int64_t q0 = k0; q0 < heads.time; q0 += kTile) {
      const T *query_rows = in.qkv + heads.query(token + q0, head), *dout_rows = in.dout + heads.out(token + q0, head);
      const int64_t queries = heads.time - q0;
      typename Tile::Scores s, ds;  // by key and query
      __syncthreads();
      load_query_rows(of, in, heads, pair, token, q0);
      __syncthreads();
      if (lowest_start(of) >= k0 + kTile) continue;
      load_tile<kWidth>(rows, heads, query_rows, heads.qkv_width, queries, heads.scale);
      __syncthreads();
      multiply_rows<kWidth>(s, keys, rows, heads);
      __syncthreads();
      load_tile<kWidth>(rows, heads, dout_rows, heads.out_width, queries, 1);
      __syncthreads();
      multiply_rows<kWidth>(ds, values, rows, heads);
      SFFN_UNROLL for (int j = 0; j < kPer; ++j) {
        const int query = thread_x() * kPer + j;
        const int64_t key = k0 + thread_y() * kPer;
        float factor[kPer];
        SFFN_UNROLL for (int n = 0; n < kPer; ++n) factor[n] = 1;
        if (dropout.threshold > 0) dropout.factors(factor, (pair * heads.time + q0 + query) * heads.time + key);
        SFFN_UNROLL for (int i = 0; i < kPer; ++i) score_gradient(s[i][j], ds[i][j], factor[i], of, query, q0, key + i);
      }
      store_scores<kWidth>(scores, s);
      __syncthreads();
      add_rows<kWidth>(dv, scores, rows, heads);
      __syncthreads();
      store_scores<kWidth>(scores, ds);
      load_tile<kWidth>(rows, heads, query_rows, heads.qkv_width, queries, heads.scale);
      __syncthreads();
      add_rows<kWidth>(dk, scores, rows, heads);
    }
  }
  SFFN_UNROLL for (int i = 0; i < kPer; ++i) {
    const int row = thread_y() * kPer + i;
    if (row >= left) continue;
    store_row<kWidth>(dqkv + heads.key(token + k0 + row, kv), dk, i, 1, heads);
    store_row<kWidth>(dqkv + heads.value(token + k0 + row, kv), dv, i, 1, heads);
  }
}

}  // namespace
}  // namespace attention

void attention_backward(Stream& stream, Tensor dqkv, const Tensor& dout, const Tensor& out, const Tensor& lse,
                        const Tensor& qkv, const Tensor& segment_start, const AttentionShape& shape,
                        const Dropout& dropout) {
  using namespace attention;
  if (qkv.numel() == 0) return;
  with_activation_type("attention_backward", qkv, [&]<class T>(T) {
    const Heads heads(shape, rows_are_packs<T>(shape.head_dim, {dqkv.raw(), dout.raw(), out.raw(), qkv.raw()}));
    const auto* start = segment_start.data_or_null<int32_t>();
    auto* d = workspace<float>(stream, shape.tokens() * shape.heads);
    if (mma::suits<T>(shape, heads)) {
      const mma::Backward x{
          dqkv.data<bfloat16>(), d,    dout.data<bfloat16>(), out.data<bfloat16>(), qkv.data<bfloat16>(),
          lse.data<float>(),     start};
      const bool warpgroups = native(stream).warpgroups;
      return warpgroups ? wgmma::backward(stream, x, heads, shape, dropout)
                        : mma::backward(stream, x, heads, shape, dropout);
    }
    with_width("attention_backward", shape.head_dim, [&]<int kWidth>(std::integral_constant<int, kWidth>) {
      const int64_t tiles = blocks_for(shape.time, Tiles<kWidth>::kTile);
      const int64_t pairs = shape.batch * shape.heads, kv_pairs = shape.batch * shape.kv_heads;
      const size_t bytes = shared_bytes<kWidth>(3, heads);
      const Inputs<T> in{dout.data<T>(), qkv.data<T>(), lse.data<float>(), d, start};
      launch(stream, output_dot_kernel<T>, {blocks_for(shape.tokens() * shape.heads, kThreads / 32), kThreads},
             Work{bytes_of(dout, out, lse), flops_of(out.numel())}, d, in.dout, out.data<T>(), heads, shape.tokens());
      launch(stream, query_gradient_kernel<kWidth, T>, {blocks_for(pairs * tiles, 1), kThreads, bytes},
             Work{bytes_of(out, dout, qkv, lse, lse), 3 * causal_flops(shape), kOnTensorCores<T>}, dqkv.data<T>(), in,
             heads, DropoutSite(dropout), pairs);
      launch(stream, key_gradient_kernel<kWidth, T>, {blocks_for(kv_pairs * tiles, 1), kThreads, bytes},
             Work{bytes_of(dqkv, dout, qkv, lse, lse) - bytes_of(out), 4 * causal_flops(shape), kOnTensorCores<T>},
             dqkv.data<T>(), in, heads, DropoutSite(dropout), kv_pairs);
    });
  });
}

}  // namespace sffn::cuda
