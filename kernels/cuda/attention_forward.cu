// out = dropout(softmax(scale·q kᵀ, masked)) v, causal; lse = log Σ exp of the scores of a row
// out [N, H·d_h] act  lse [B,H,T] f32  qkv [N, (H+2·H_kv)·d_h] act
// A block takes a tile of queries of one head and goes over the tiles of keys that they see, with a running maximum and
// sum of each row (Dao et al., arXiv 2205.14135; Milakov & Gimelshein, arXiv 1805.02867), in float. Keys and values use
// one tile of shared memory in turn. The longest tiles of queries begin first.
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
}  // namespace attention

void attention_forward(Stream& stream, Tensor out, Tensor lse, const Tensor& qkv, const Tensor& segment_start,
                       const AttentionShape& shape, const Dropout& dropout) {
  if (qkv.numel() == 0) return;
  with_activation_type("attention_forward", qkv, [&]<class T>(T) {
    const attention::Heads heads(shape, rows_are_packs<T>(shape.head_dim, {out.raw(), qkv.raw()}));
    attention::with_width("attention_forward", shape.head_dim, [&]<int kWidth>(std::integral_constant<int, kWidth>) {
      const int64_t pairs = shape.batch * shape.heads;
      const int64_t tiles = blocks_for(shape.time, attention::Tiles<kWidth>::kTile);
      launch(stream, attention::attention_forward_kernel<kWidth, T>,
             {blocks_for(pairs * tiles, 1), attention::kThreads, attention::shared_bytes<kWidth>(2, heads)},
             Work{bytes_of(out, lse, qkv, segment_start), 2 * attention::causal_flops(shape), kOnTensorCores<T>},
             out.data<T>(), lse.data<float>(), qkv.data<T>(), segment_start.data_or_null<int32_t>(), heads,
             DropoutSite(dropout), pairs);
    });
  });
}

}  // namespace sffn::cuda
