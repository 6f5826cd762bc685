// Gradients of attention on warpgroups (attention_wgmma.cuh): the two kernels of attention_backward_mma.cuh, in steps
// of 64 keys or 64 queries. dq: two warpgroups of 64 queries, whose last products go on while the next step is asked
// for. dk, dv: one warpgroup of 64 keys a block; several blocks share a multiprocessor, each in another part of a step.
// Where only two warpgroups do, every product goes on while something is made of the one before.
#pragma once
#include "kernels/cuda/attention_backward_mma.cuh"
#include "kernels/cuda/attention_wgmma.cuh"

namespace sffn::cuda::attention::wgmma {
namespace {

using mma::Backward;

template <int kWidth>
using QueryGradientCut = std::conditional_t<kWidth == 64, Cut<64, 2, 2>, Cut<128, 2, 1>>;
template <int kWidth>
using KeyGradientCut = std::conditional_t<kWidth == 64, Cut<64, 1, 3>, Cut<128, 1, 2>>;

template <int kWidth, bool kDropout>
__global__ void __launch_bounds__(QueryGradientCut<kWidth>::kThreads, QueryGradientCut<kWidth>::least_blocks(kDropout))
    query_gradient_wgmma_kernel(Backward x, Heads heads, DropoutSite site) {
#if SFFN_WGMMA
  const mma::ProbabilityDropout dropout(site, heads.time);
  using C = QueryGradientCut<kWidth>;
  bfloat16* queries = panels_of_block<bfloat16>();
  bfloat16 *douts = queries + C::kTile, *keys = douts + C::kTile, *values = keys + 3 * C::kStage;  // three stages each
  const mma::QueryTile<C> tile(heads, x.segment_start);
  const int kv = heads.kv_head(tile.head), time = static_cast<int>(heads.time), left = time - tile.q0;
  const int k0 = uniform(tile.first_key(x.segment_start)), steps = tile.last / kStep - k0 / kStep + 1;
  RowPieces<C, C::kRows>(x.qkv + heads.query(tile.token + tile.q0, tile.head), heads.qkv_width, left).ask(queries);
  RowPieces<C, C::kRows>(x.dout + heads.out(tile.token + tile.q0, tile.head), heads.out_width, left).ask(douts);
  RowPieces<C, kStep> pieces(x.qkv + heads.key(tile.token + k0, kv), heads.qkv_width, time - k0);
  const int to_value = heads.kv_heads * heads.head_dim;  // from a key
  const auto ask = [&](int stage) {
    pieces.ask(keys + stage * C::kStage);
    pieces.ask(values + stage * C::kStage, to_value);
    pieces.advance();
  };
  ask(0);
  commit_copies();
  float log2_sum[2], d[2];
  mma::output_dots<C>(d, x, heads, tile);
  SFFN_UNROLL for (int r = 0; r < 2; ++r) { log2_sum[r] = kLog2E * x.lse[tile.pair * heads.time + tile.existing(r)]; }
  const auto begin_step = [&](int step) {
    wait_for_copies<0>();
    publish_copies();
    __syncthreads();  // the stage is there for all, and all have done with the one of two steps before
    if (step + 1 < steps) ask((step + 1) % 3);
    commit_copies();
  };
  const int group = C::group(), query = tile.q0 + group * kGroupRows;
  const int own_steps = query <= tile.last ? (query - k0) / kStep + 1 : 0;
  const uint64_t own = describe_own(queries, group), own_douts = describe_own(douts, group);
  const uint64_t key_rows = describe_rows(keys), value_rows = describe_rows(values);
  const uint64_t key_columns = describe_columns(keys);
  typename C::Scores s, dp;
  typename C::Sum dq = {};
  FragmentA ds[kStep / 16];
  int step = 0;
  for (; step < own_steps; ++step) {
    begin_step(step);
    if constexpr (kWidth == 64) finish_products<0>(dq);  // else there are registers to ask for more before
    const int key = k0 + step * kStep, stage = step % 3 * C::kStage;
    multiply_rows<C>(s[0], own, further(key_rows, stage));
    multiply_rows<C>(dp[0], own_douts, further(value_rows, stage));
    finish_products<0>(s[0], dp[0], dq);
    if (tile.masks(key)) tile.mask(s, key);
    mma::score_gradient<kDropout, C>(dp, s, tile, log2_sum, d, heads.scale * kLog2E, dropout, key);
    round_to_factors(ds, dp[0]);
    add_rows<C>(dq, ds, further(key_columns, stage));
  }
  finish_products<0>(dq);
  for (; step < steps; ++step) begin_step(step);  // of other warpgroups
  __syncthreads();
  const float by[2] = {heads.scale, heads.scale};
  store_rows<C>(x.dqkv + heads.query(tile.token + tile.query, tile.head), heads.qkv_width, tile.warp_count(), queries,
                dq, by);
#else
  __trap();  // the host asks for it where it is compiled
#endif
}

// s = P, rows are keys.
template <class Row>
__device__ __forceinline__ void make_probabilities(Row& s, const float* lse, float factor) {
  SFFN_UNROLL for (int n = 0; n < kStep / 8; ++n) {
    const auto log_sums = *reinterpret_cast<const float2*>(lse + 8 * n + lane_column());
    const float log2_sum[2] = {kLog2E * log_sums.x, kLog2E * log_sums.y};
    SFFN_UNROLL for (int e = 0; e < 4; ++e) s[n].at[e] = exp2_fast(s[n].at[e] * factor - log2_sum[e % 2]);
  }
}
// dS = P ⊙ (dP - D) in place of dP.
template <class Row>
__device__ __forceinline__ void make_gradients(Row& dp, const Row& p, const float* d) {
  SFFN_UNROLL for (int n = 0; n < kStep / 8; ++n) {
    const auto dots = *reinterpret_cast<const float2*>(d + 8 * n + lane_column());
    const float dot[2] = {dots.x, dots.y};
    SFFN_UNROLL for (int e = 0; e < 4; ++e) dp[n].at[e] = p[n].at[e] * (dp[n].at[e] - dot[e % 2]);
  }
}

template <int kWidth, bool kDropout>
__global__ void __launch_bounds__(KeyGradientCut<kWidth>::kThreads, KeyGradientCut<kWidth>::least_blocks(kDropout))
    key_gradient_wgmma_kernel(Backward x, Heads heads, DropoutSite site) {
#if SFFN_WGMMA
  const mma::ProbabilityDropout dropout(site, heads.time);
  using C = KeyGradientCut<kWidth>;
  using Rows = RowPieces<C, kStep>;
  constexpr bool kOverlaps = kWidth == 128 && !kDropout;  // else it takes too many registers
  bfloat16* keys = panels_of_block<bfloat16>();
  bfloat16 *values = keys + C::kTile, *queries = values + C::kTile,
           *douts = queries + 2 * C::kStage;  // two stages each
  auto* of_stages = reinterpret_cast<mma::QueryStage<C>*>(douts + 2 * C::kStage);
  const mma::KeyTile<C> tile(heads, x.segment_start);
  const int time = static_cast<int>(heads.time), group = heads.heads / heads.kv_heads;
  const int last = uniform(tile.last), end = (tile.kv + 1) * group;
  const auto ask = [&](int stage, int head, int q0) {
    Rows(x.qkv + heads.query(tile.token + q0, head), heads.qkv_width, time - q0).ask(queries + stage * C::kStage);
    Rows(x.dout + heads.out(tile.token + q0, head), heads.out_width, time - q0).ask(douts + stage * C::kStage);
    const int i = static_cast<int>(threadIdx.x), row = q0 + i;
    if (i < kStep) {
      const int64_t at = row < time ? (tile.sequence * heads.heads + head) * heads.time + row : 0;
      copy_async<4>(&of_stages[stage].lse[i], x.lse + at, row < time);
      copy_async<4>(&of_stages[stage].d[i], x.d + at, row < time);
      if (x.segment_start != nullptr) {
        copy_async<4>(&of_stages[stage].start[i], x.segment_start + (row < time ? tile.token + row : 0), row < time);
      }
    }
  };
  Rows(x.qkv + heads.key(tile.token + tile.k0, tile.kv), heads.qkv_width, time - tile.k0).ask(keys);
  Rows(x.qkv + heads.value(tile.token + tile.k0, tile.kv), heads.qkv_width, time - tile.k0).ask(values);
  int head = tile.kv * group, q0 = tile.k0;
  ask(0, head, q0);
  commit_copies();
  const uint64_t own = describe_own(keys, 0), own_values = describe_own(values, 0);
  const uint64_t query_rows = describe_rows(queries), dout_rows = describe_rows(douts);
  const uint64_t query_columns = describe_columns(queries), dout_columns = describe_columns(douts);
  typename C::Scores s, dp;
  typename C::Sum dk = {}, dv = {};
  FragmentA p[kStep / 16], ds[kStep / 16];
  for (int stage = 0; head < end; stage ^= 1) {
    const bool wraps = q0 + kStep > last;
    const int next_head = head + wraps, next_q0 = wraps ? tile.k0 : q0 + kStep;
    wait_for_copies<0>();
    publish_copies();
    __syncthreads();  // the stage is there for all, and all have done with the other
    if (next_head < end) ask(stage ^ 1, next_head, next_q0);
    commit_copies();
    const int at = stage * C::kStage;
    multiply_rows<C>(s[0], own, further(query_rows, at));
    multiply_rows<C>(dp[0], own_values, further(dout_rows, at));
    const mma::QueryStage<C>& of = of_stages[stage];
    const int32_t* start = x.segment_start != nullptr ? of.start : nullptr;
    if constexpr (kOverlaps) {
      finish_products<1>(s[0]);
    } else {
      finish_products<0>(s[0], dp[0]);
    }
    if (tile.masks(q0, start)) tile.mask(s, q0, start);
    if constexpr (kOverlaps) {
      make_probabilities(s[0], of.lse, heads.scale * kLog2E);
      round_to_factors(p, s[0]);
      add_rows<C>(dv, p, further(dout_columns, at));
      finish_products<1>(dp[0]);
      make_gradients(dp[0], s[0], of.d);
      round_to_factors(ds, dp[0]);
    } else {
      const uint64_t first = dropout.row(tile.sequence * heads.heads + head, q0 + lane_column()) +
                             static_cast<uint64_t>(tile.key + lane_row());
      mma::key_score_gradient<kDropout, C>(dp, s, of.lse, of.d, heads.scale * kLog2E, dropout, first);
      round_to_factors(p, s[0]);
      round_to_factors(ds, dp[0]);
      add_rows<C>(dv, p, further(dout_columns, at));
    }
    add_rows<C>(dk, ds, further(query_columns, at));
    finish_products<0>(dv, dk);
    head = next_head, q0 = next_q0;
  }
  __syncthreads();
  const float of_dk[2] = {heads.scale, heads.scale}, kept = kDropout ? dropout.mask.kept : 1.0f;
  const float of_dv[2] = {kept, kept};
  const int rows = time - tile.key;
  store_rows<C>(x.dqkv + heads.key(tile.token + tile.key, tile.kv), heads.qkv_width, rows, keys, dk, of_dk);
  store_rows<C>(x.dqkv + heads.value(tile.token + tile.key, tile.kv), heads.qkv_width, rows, values, dv, of_dv);
#else
  __trap();  // the host asks for it where it is compiled
#endif
}

void backward(Stream& stream, const Backward& x, const Heads& heads, const AttentionShape& shape,
              const Dropout& dropout) {
  mma::with_kernel(shape, dropout, [&](auto width, auto drops) {
    using Q = QueryGradientCut<width>;
    const auto run = [&]<class K>(K, auto key_gradient, size_t key_bytes) {
      mma::launch_backward<Q, K>(stream, query_gradient_wgmma_kernel<width, drops>, Q::shared_bytes(2, 6), key_gradient,
                                 key_bytes, x, heads, shape, dropout);
    };
    if constexpr (width == 128 && drops) {  // the sums of 64 keys leave no registers for random numbers
      using K = mma::KeyGradientCut<width>;
      run(K(), mma::key_gradient_mma_kernel<width, drops>, K::shared_bytes(2, 2, sizeof(mma::QueryStage<K>)));
    } else {
      using K = KeyGradientCut<width>;
      run(K(), key_gradient_wgmma_kernel<width, drops>, K::shared_bytes(2, 4) + 2 * sizeof(mma::QueryStage<K>));
    }
  });
}

}  // namespace
}  // namespace sffn::cuda::attention::wgmma
