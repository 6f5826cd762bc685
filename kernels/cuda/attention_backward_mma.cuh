// Gradients of attention on tensor cores (attention_mma.cuh), in two kernels that each write what no other does:
//   dq by tiles of queries, going over keys:      S = q kᵀ, dP = dout vᵀ, dq += dS k; it makes D for both
//   dk, dv by tiles of keys, going over queries:  Sᵀ = k qᵀ, dPᵀ = v doutᵀ, dv += Pᵀ dout, dk += dSᵀ q,
//                                                 of all query heads of the key head in order
// That is 7 products of 2·d_h FLOPs a score where one kernel needs 5. One kernel must add dq over tiles of keys: in any
// order with atomics, or in a fixed one through fp32 sums of every tile of 128 keys. These move 8·d_h bytes a query and
// tile and take memory that grows as T²; the two products are 512·d_h FLOPs, 64 a byte, where GPUs with such tensor
// cores do over 150 in the time of a byte.
#pragma once
#include "kernels/cuda/attention_mma.cuh"

namespace sffn::cuda::attention::mma {
namespace {

// q, k, v and out of the forward pass, with its lse; the gradients and D.
struct Backward {
  bfloat16* dqkv;
  float* d;  // [B,H,T]
  const bfloat16 *dout, *out, *qkv;
  const float* lse;
  const int32_t* segment_start;
};

// 16 rows a warp: two kinds of scores and the sums of 32 rows would leave room for one block. At 128 columns dk and dv
// take half the registers, and the warp's keys and values are read again.
template <int kWidth>
using QueryGradientCut =
    std::conditional_t<kWidth == 64, Cut<64, 4, 1, 64, 32, true, 3>, Cut<128, 4, 1, 32, 32, true, 2>>;
template <int kWidth>
using KeyGradientCut =
    std::conditional_t<kWidth == 64, Cut<64, 4, 1, 64, 16, true, 3>, Cut<128, 4, 1, 32, 32, false, 2>>;

// ⟨dout, out⟩ of the lane's rows; the four lanes of a row have a quarter each.
template <class C>
__device__ __forceinline__ void output_dots(float (&d)[2 * C::kRowTiles], const Backward& x, const Heads& heads,
                                            const QueryTile<C>& tile) {
  SFFN_UNROLL for (int r = 0; r < 2 * C::kRowTiles; ++r) {
    const int64_t at = heads.out(tile.token + tile.existing(r), tile.head) + 4 * lane_column();
    d[r] = 0;
    SFFN_UNROLL for (int c = 0; c < C::kWidth; c += 32) {
      float left[8], right[8];
      load_floats(left, x.dout + at + c), load_floats(right, x.out + at + c);
      SFFN_UNROLL for (int k = 0; k < 8; ++k) d[r] += left[k] * right[k];
    }
    d[r] = quad_reduce(d[r], Sum());
    if (lane_column() == 0 && tile.has(r)) x.d[tile.pair * heads.time + tile.lane_query(r)] = d[r];
  }
}

// dS = P ⊙ (dropout(dP) - D) in place of dP; rows are queries, keys begin at `key`.
template <bool kDropout, class C>
__device__ __forceinline__ void score_gradient(typename C::Scores& dp, const typename C::Scores& s,
                                               const QueryTile<C>& tile, const float (&log2_sum)[2 * C::kRowTiles],
                                               const float (&d)[2 * C::kRowTiles], float factor,
                                               const ProbabilityDropout& dropout, int key) {
  const uint64_t first = dropout.row(tile.pair, tile.lane_query(0)) + static_cast<uint64_t>(key + lane_column());
  SFFN_UNROLL for (int i = 0; i < C::kRowTiles; ++i) {
    SFFN_UNROLL for (int n = 0; n < C::kStep / 8; ++n) {
      const unsigned dropped = kDropout ? dropout.of_queries(first + 16 * i * dropout.time + 8 * n) : 0;
      SFFN_UNROLL for (int e = 0; e < 4; ++e) {
        const int r = 2 * i + e / 2;
        const float p = exp2_fast(s[i][n].at[e] * factor - log2_sum[r]);
        const float kept = (dropped >> e & 1) != 0 ? 0.0f : kDropout ? dropout.mask.kept : 1.0f;
        dp[i][n].at[e] = p * (kept * dp[i][n].at[e] - d[r]);
      }
    }
  }
}

template <int kWidth, bool kDropout>
__global__ void __launch_bounds__(QueryGradientCut<kWidth>::kThreads, QueryGradientCut<kWidth>::least_blocks(kDropout))
    query_gradient_mma_kernel(Backward x, Heads heads, DropoutSite site) {
  const ProbabilityDropout dropout(site, heads.time);
  using C = QueryGradientCut<kWidth>;
  bfloat16* queries = dynamic_shared<bfloat16>();
  bfloat16* douts = queries + C::kTileSize;
  bfloat16* stages = douts + C::kTileSize;  // of keys, then values
  const QueryTile<C> tile(heads, x.segment_start);
  const int kv = heads.kv_head(tile.head), time = static_cast<int>(heads.time), left = time - tile.q0;
  const auto ask_stage = [&](int stage, int k0) {
    bfloat16* keys = stages + stage * 2 * C::kStageSize;
    ask_rows<C, C::kOther>(keys, x.qkv + heads.key(tile.token + k0, kv), heads.qkv_width, time - k0);
    ask_rows<C, C::kOther>(keys + C::kStageSize, x.qkv + heads.value(tile.token + k0, kv), heads.qkv_width, time - k0);
  };
  int k0 = tile.first_key(x.segment_start);
  ask_rows<C, C::kRows>(queries, x.qkv + heads.query(tile.token + tile.q0, tile.head), heads.qkv_width, left);
  ask_rows<C, C::kRows>(douts, x.dout + heads.out(tile.token + tile.q0, tile.head), heads.out_width, left);
  commit_copies();
  ask_stage(0, k0);
  commit_copies();
  OwnRows<C> own(queries), own_douts(douts);
  if constexpr (C::kHeld) {
    wait_for_copies<1>();
    __syncthreads();
    own.hold(), own_douts.hold();
  }
  float log2_sum[2 * C::kRowTiles], d[2 * C::kRowTiles], by[2 * C::kRowTiles];
  output_dots<C>(d, x, heads, tile);
  SFFN_UNROLL for (int r = 0; r < 2 * C::kRowTiles; ++r) {
    log2_sum[r] = kLog2E * x.lse[tile.pair * heads.time + tile.existing(r)];
    by[r] = heads.scale;
  }
  typename C::Sums dq = {};
  for (int stage = 0; k0 <= tile.last; k0 += C::kOther, stage ^= 1) {
    wait_for_copies<0>();
    __syncthreads();  // the stage is there for all, and all have done with the other
    if (k0 + C::kOther <= tile.last) ask_stage(stage ^ 1, k0 + C::kOther);
    commit_copies();
    for (int step = 0; step < C::kOther; step += C::kStep) {
      if (!tile.sees(k0 + step)) continue;
      const bfloat16* keys = stages + stage * 2 * C::kStageSize + step * C::kStride;
      typename C::Scores s, dp;
      multiply_rows<C>(s, own, keys);
      multiply_rows<C>(dp, own_douts, keys + C::kStageSize);
      if (tile.masks(k0 + step)) tile.mask(s, k0 + step);
      score_gradient<kDropout, C>(dp, s, tile, log2_sum, d, heads.scale * kLog2E, dropout, k0 + step);
      add_rows<C>(dq, dp, keys);
    }
  }
  store_rows<C>(x.dqkv + heads.query(tile.token + tile.query, tile.head), heads.qkv_width, tile.warp_count(), own.rows,
                dq, by);
}

// What belongs to the queries of a stage, beside their rows; zeros beyond the last, whose rows are zero, too.
template <class C>
struct QueryStage {
  alignas(16) float lse[C::kOther], d[C::kOther];
  int32_t start[C::kOther];
};

// The tile of keys of a block. Tiles of one head are neighbours; the first ones, which most queries see, begin first.
template <class C>
struct KeyTile {
  int64_t token;     // the first of the sequence
  int sequence, kv;  // the key head
  int k0, key;       // first key of the block and of the warp
  int last;          // the last query that sees one of the block's keys

  __device__ __forceinline__ KeyTile(const Heads& heads, const int32_t* segment_start) {
    const int tiles = static_cast<int>((heads.time + C::kRows - 1) / C::kRows), time = static_cast<int>(heads.time);
    const int block = static_cast<int>(blockIdx.x), pair = block / tiles;
    sequence = pair / heads.kv_heads;
    kv = pair % heads.kv_heads;
    token = sequence * heads.time;
    k0 = block % tiles * C::kRows;
    key = k0 + C::warp_row();
    last = time - 1;
    if (segment_start == nullptr) return;
    last = k0;
    for (int i = k0 + static_cast<int>(threadIdx.x); i < time; i += C::kThreads) {
      if (segment_start[token + i] < k0 + C::kRows) last = i;
    }
    last = block_reduce(last, k0, Max());
  }
  // Of kStep queries from `query`: whether the warp has a key that one of them sees, and one that one does not see.
  // `start` is of these queries, or null.
  __device__ __forceinline__ bool sees(int query, const int32_t* start) const {
    if (key > last || query > last || query + C::kStep <= key) return false;
    return start == nullptr || __any_sync(0xffffffffu, start[lane_of_warp() % C::kStep] < key + C::kWarpRows) != 0;
  }
  __device__ __forceinline__ bool masks(int query, const int32_t* start) const {
    if (query < key + C::kWarpRows - 1) return true;
    if (start == nullptr) return false;
    bool later = false;
    SFFN_UNROLL for (int i = 0; i < C::kStep; i += 32) later |= start[(lane_of_warp() + i) % C::kStep] > key;
    return __any_sync(0xffffffffu, later) != 0;
  }
  // s = -infinity where a key is not seen: rows are keys.
  __device__ __forceinline__ void mask(typename C::Scores& s, int query, const int32_t* start) const {
    SFFN_UNROLL for (int n = 0; n < C::kStep / 8; ++n) {
      SFFN_UNROLL for (int e = 0; e < 2; ++e) {
        const int column = 8 * n + lane_column() + e, first = start != nullptr ? start[column] : 0;
        SFFN_UNROLL for (int r = 0; r < 2 * C::kRowTiles; ++r) {
          const int at = key + 8 * r + lane_row();
          if (at > query + column || at < first) s[r / 2][n].at[r % 2 * 2 + e] = -INFINITY;
        }
      }
    }
  }
};

// As score_gradient with keys in rows; and s becomes 0 or P, without dropout's factor, of which dv's sums are made.
template <bool kDropout, class C>
__device__ __forceinline__ void key_score_gradient(typename C::Scores& dp, typename C::Scores& s, const float* lse,
                                                   const float* d, float factor, const ProbabilityDropout& dropout,
                                                   uint64_t first) {
  SFFN_UNROLL for (int n = 0; n < C::kStep / 8; ++n) {
    const auto log_sums = *reinterpret_cast<const float2*>(lse + 8 * n + lane_column());
    const auto dots = *reinterpret_cast<const float2*>(d + 8 * n + lane_column());
    const float log2_sum[2] = {kLog2E * log_sums.x, kLog2E * log_sums.y}, dot[2] = {dots.x, dots.y};
    SFFN_UNROLL for (int i = 0; i < C::kRowTiles; ++i) {
      const unsigned dropped = kDropout ? dropout.of_keys(first + 8 * n * dropout.time + 16 * i) : 0;
      SFFN_UNROLL for (int e = 0; e < 4; ++e) {
        const float p = exp2_fast(s[i][n].at[e] * factor - log2_sum[e % 2]);
        const bool drops = (dropped >> e & 1) != 0;
        const float kept = drops ? 0.0f : kDropout ? dropout.mask.kept : 1.0f;
        dp[i][n].at[e] = p * (kept * dp[i][n].at[e] - dot[e % 2]);
        s[i][n].at[e] = drops ? 0.0f : p;
      }
    }
  }
}

template <int kWidth, bool kDropout>
__global__ void __launch_bounds__(KeyGradientCut<kWidth>::kThreads, KeyGradientCut<kWidth>::least_blocks(kDropout))
    key_gradient_mma_kernel(Backward x, Heads heads, DropoutSite site) {
  const ProbabilityDropout dropout(site, heads.time);
  using C = KeyGradientCut<kWidth>;
  bfloat16* keys = dynamic_shared<bfloat16>();
  bfloat16* values = keys + C::kTileSize;
  bfloat16* stages = values + C::kTileSize;  // of queries, then gradients of outputs
  auto* of_stages = reinterpret_cast<QueryStage<C>*>(stages + 4 * C::kStageSize);
  const KeyTile<C> tile(heads, x.segment_start);
  const int time = static_cast<int>(heads.time), group = heads.heads / heads.kv_heads;
  const auto ask_stage = [&](int stage, int head, int q0) {
    bfloat16* queries = stages + stage * 2 * C::kStageSize;
    ask_rows<C, C::kOther>(queries, x.qkv + heads.query(tile.token + q0, head), heads.qkv_width, time - q0);
    ask_rows<C, C::kOther>(queries + C::kStageSize, x.dout + heads.out(tile.token + q0, head), heads.out_width,
                           time - q0);
    const int i = static_cast<int>(threadIdx.x), row = q0 + i;
    if (i >= C::kOther) return;
    const int64_t at = row < time ? (tile.sequence * heads.heads + head) * heads.time + row : 0;
    copy_async<4>(&of_stages[stage].lse[i], x.lse + at, row < time);
    copy_async<4>(&of_stages[stage].d[i], x.d + at, row < time);
    if (x.segment_start == nullptr) return;
    copy_async<4>(&of_stages[stage].start[i], x.segment_start + (row < time ? tile.token + row : 0), row < time);
  };
  int head = tile.kv * group, q0 = tile.k0;
  const int end = head + group;
  ask_rows<C, C::kRows>(keys, x.qkv + heads.key(tile.token + tile.k0, tile.kv), heads.qkv_width, time - tile.k0);
  ask_rows<C, C::kRows>(values, x.qkv + heads.value(tile.token + tile.k0, tile.kv), heads.qkv_width, time - tile.k0);
  commit_copies();
  ask_stage(0, head, q0);
  commit_copies();
  OwnRows<C> own(keys), own_values(values);
  if constexpr (C::kHeld) {
    wait_for_copies<1>();
    __syncthreads();
    own.hold(), own_values.hold();
  }
  typename C::Sums dk = {}, dv = {};
  for (int stage = 0; head < end; stage ^= 1) {
    const bool wraps = q0 + C::kOther > tile.last;
    const int next_head = head + wraps, next_q0 = wraps ? tile.k0 : q0 + C::kOther;
    wait_for_copies<0>();
    __syncthreads();  // the stage is there for all, and all have done with the other
    if (next_head < end) ask_stage(stage ^ 1, next_head, next_q0);
    commit_copies();
    const int pair = tile.sequence * heads.heads + head;
    for (int step = 0; step < C::kOther; step += C::kStep) {
      const int query = q0 + step;
      const QueryStage<C>& of = of_stages[stage];
      const int32_t* start = x.segment_start != nullptr ? of.start + step : nullptr;
      if (!tile.sees(query, start)) continue;
      const bfloat16* queries = stages + stage * 2 * C::kStageSize + step * C::kStride;
      typename C::Scores s, dp;
      multiply_rows<C>(s, own, queries);
      multiply_rows<C>(dp, own_values, queries + C::kStageSize);
      if (tile.masks(query, start)) tile.mask(s, query, start);
      const uint64_t first = dropout.row(pair, query + lane_column()) + static_cast<uint64_t>(tile.key + lane_row());
      key_score_gradient<kDropout, C>(dp, s, of.lse + step, of.d + step, heads.scale * kLog2E, dropout, first);
      add_rows<C>(dv, s, queries + C::kStageSize);
      add_rows<C>(dk, dp, queries);
    }
    head = next_head, q0 = next_q0;
  }
  float of_dk[2 * C::kRowTiles], of_dv[2 * C::kRowTiles];
  SFFN_UNROLL for (int r = 0; r < 2 * C::kRowTiles; ++r) {
    of_dk[r] = heads.scale, of_dv[r] = kDropout ? dropout.mask.kept : 1.0f;
  }
  const int rows = time - tile.key;
  store_rows<C>(x.dqkv + heads.key(tile.token + tile.key, tile.kv), heads.qkv_width, rows, own.rows, dk, of_dk);
  store_rows<C>(x.dqkv + heads.value(tile.token + tile.key, tile.kv), heads.qkv_width, rows, own_values.rows, dv,
                of_dv);
}

// The two kernels for tiles of Q's rows of queries and K's rows of keys.
template <class Q, class K, class Kernel>
void launch_backward(Stream& stream, Kernel query_gradient, size_t query_bytes, Kernel key_gradient, size_t key_bytes,
                     const Backward& x, const Heads& heads, const AttentionShape& shape, const Dropout& dropout) {
  const DropoutSite site(dropout);
  const double outs = bytes_for<bfloat16>(shape.tokens() * shape.out_width());
  const double qkvs = bytes_for<bfloat16>(shape.tokens() * shape.qkv_width());
  const double row_numbers = 2 * bytes_for<float>(shape.tokens() * shape.heads);  // lse and D
  const unsigned query_tiles = blocks_for(shape.time, Q::kRows), key_tiles = blocks_for(shape.time, K::kRows);
  launch(stream, query_gradient, {blocks_for(shape.batch * shape.heads * query_tiles, 1), Q::kThreads, query_bytes},
         Work{3 * outs + qkvs + row_numbers, 3 * causal_flops(shape), true}, x, heads, site);
  launch(stream, key_gradient, {blocks_for(shape.batch * shape.kv_heads * key_tiles, 1), K::kThreads, key_bytes},
         Work{2 * qkvs + row_numbers, 4 * causal_flops(shape), true}, x, heads, site);
}

void backward(Stream& stream, const Backward& x, const Heads& heads, const AttentionShape& shape,
              const Dropout& dropout) {
  with_kernel(shape, dropout, [&](auto width, auto drops) {
    using Q = QueryGradientCut<width>;
    using K = KeyGradientCut<width>;
    launch_backward<Q, K>(stream, query_gradient_mma_kernel<width, drops>, Q::shared_bytes(2, 2),
                          key_gradient_mma_kernel<width, drops>, K::shared_bytes(2, 2, sizeof(QueryStage<K>)), x, heads,
                          shape, dropout);
  });
}

}  // namespace
}  // namespace sffn::cuda::attention::mma
