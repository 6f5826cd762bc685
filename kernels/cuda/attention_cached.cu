// Row first + t of the cache becomes the key and value heads of new token t; its query sees rows 0 … first + t:
// out = softmax(scale·q kᵀ) v        out [B·T, H·d_h] act  cache [B, P, 2·H_kv·d_h] act  qkv [B·T, (H+2·H_kv)·d_h] act
// A block takes one query of one head. Its warps take every kWarps-th row each, the lanes of a warp the columns, with a
// running maximum and sum; then the warps are joined in order.
#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace attention {
namespace {

constexpr int kWarps = kThreads / 32;

// cache[b, first + t] = the last `row` columns of the qkv of token (b, t): a block a token.
template <class T>
__global__ void append_kernel(T* cache, const T* qkv, int64_t time, int64_t width, int64_t row, int64_t first,
                              int64_t capacity) {
  const int64_t b = blockIdx.x / time, t = blockIdx.x % time;
  const T* from = qkv + int64_t{blockIdx.x} * width + width - row;
  T* to = cache + (b * capacity + first + t) * row;
  for (int64_t c = threadIdx.x; c < row; c += kThreads) to[c] = from[c];
}

template <int kWidth, class T>
__global__ void __launch_bounds__(kThreads)
    attention_cached_kernel(T* out, const T* cache, const T* qkv, Heads heads, int64_t first, int64_t capacity) {
  constexpr int kColumns = kWidth / 32;  // of a lane: lane, lane + 32, …
  __shared__ float largest_of[kWarps], sum_of[kWarps], sums_of[kWarps][kWidth];
  const int64_t token = blockIdx.x / heads.heads, row = int64_t{2} * heads.kv_heads * heads.head_dim;
  const int head = static_cast<int>(blockIdx.x % heads.heads);
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int64_t visible = first + token % heads.time + 1;
  const T* keys = cache + token / heads.time * capacity * row + int64_t{heads.kv_head(head)} * heads.head_dim;
  const T* values = keys + int64_t{heads.kv_heads} * heads.head_dim;
  float query[kColumns], sums[kColumns], largest = -FLT_MAX, sum = 0;
  SFFN_UNROLL for (int i = 0; i < kColumns; ++i) {
    const int c = lane + 32 * i;
    query[i] = c < heads.head_dim ? heads.scale * to_float(qkv[heads.query(token, head) + c]) : 0;
    sums[i] = 0;
  }
  for (int64_t j = warp; j < visible; j += kWarps) {
    float score = 0, value[kColumns];
    SFFN_UNROLL for (int i = 0; i < kColumns; ++i) {
      const int c = lane + 32 * i;
      const bool exists = c < heads.head_dim;
      score += exists ? query[i] * to_float(keys[j * row + c]) : 0.0f;
      value[i] = exists ? to_float(values[j * row + c]) : 0.0f;
    }
    score = warp_sum(score);
    const float most = score > largest ? score : largest;
    const float shrink = expf(largest - most), weight = expf(score - most);
    largest = most;
    sum = sum * shrink + weight;
    SFFN_UNROLL for (int i = 0; i < kColumns; ++i) sums[i] = sums[i] * shrink + weight * value[i];
  }
  if (lane == 0) largest_of[warp] = largest, sum_of[warp] = sum;
  SFFN_UNROLL for (int i = 0; i < kColumns; ++i) sums_of[warp][lane + 32 * i] = sums[i];
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) largest = largest_of[w] > largest ? largest_of[w] : largest;
  for (int c = static_cast<int>(threadIdx.x); c < heads.head_dim; c += kThreads) {
    float total = 0, weight = 0;
    for (int w = 0; w < kWarps; ++w) {
      const float shrink = expf(largest_of[w] - largest);
      weight += sum_of[w] * shrink;
      total += sums_of[w][c] * shrink;
    }
    store(out[heads.out(token, head) + c], total / weight);
  }
}

}  // namespace
}  // namespace attention

void attention_cached(Stream& stream, Tensor out, Tensor cache, const Tensor& qkv, const AttentionShape& shape,
                      int64_t first) {
  using namespace attention;
  if (qkv.numel() == 0) return;
  const int64_t capacity = cache.shape()[1];
  with_activation_type("attention_cached", qkv, [&]<class T>(T) {
    const Heads heads(shape, false);
    const int64_t seen = shape.batch * (shape.time * first + shape.time * (shape.time + 1) / 2);  // by all tokens
    const Work work{bytes_of(out, out) + bytes_for<T>(shape.batch * (first + shape.time) * cache.cols()),
                    2 * flops_of(seen, shape.heads, shape.head_dim), kOnTensorCores<T>};
    with_width("attention_cached", shape.head_dim, [&]<int kWidth>(std::integral_constant<int, kWidth>) {
      launch(stream, append_kernel<T>, {blocks_for(shape.tokens(), 1), kThreads},
             Work{bytes_for<T>(2 * shape.tokens() * cache.cols())}, cache.data<T>(), qkv.data<T>(), shape.time,
             shape.qkv_width(), cache.cols(), first, capacity);
      launch(stream, attention_cached_kernel<kWidth, T>, {blocks_for(shape.tokens() * shape.heads, 1), kThreads}, work,
             out.data<T>(), cache.data<T>(), qkv.data<T>(), heads, first, capacity);
    });
  });
}

}  // namespace sffn::cuda
