// Attention forward on warpgroups (attention_wgmma.cuh): two of 64 queries a block, over 64 keys a step. While a step's
// probabilities are made, the products of the step before with its values go on: a step asks for its scores, then for
// those products, and needs the sums last. So keys arrive one step ahead of values.
#pragma once
#include "kernels/cuda/attention_wgmma.cuh"

namespace sffn::cuda::attention::wgmma {
namespace {

template <int kWidth>
using ForwardCut = std::conditional_t<kWidth == 64, Cut<64, 2, 2>, Cut<128, 3, 1>>;

// The running softmax of the lane's two rows. `sum` is of the lane's own columns until the end.
struct RunningSoftmax {
  float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {};

  // s = 2^(factor·(s - m')) with the new maximum m' of each row; what was summed before is to shrink by `shrink`. A row
  // that has seen no key yet keeps the maximum -infinity.
  template <class Row>
  __device__ __forceinline__ void add(Row& s, float (&shrink)[2], float factor) {
    SFFN_UNROLL for (int r = 0; r < 2; ++r) {
      float most = largest[r];
      SFFN_UNROLL for (auto& of : s) most = fmaxf(most, fmaxf(of.at[2 * r], of.at[2 * r + 1]));
      most = mma::quad_reduce(most, mma::Largest());
      const float shift = most == -INFINITY ? 0.0f : most * factor;
      shrink[r] = exp2_fast(largest[r] * factor - shift);
      largest[r] = most;
      sum[r] *= shrink[r];
      SFFN_UNROLL for (auto& of : s) {
        SFFN_UNROLL for (int e = 2 * r; e < 2 * r + 2; ++e) {
          of.at[e] = exp2_fast(of.at[e] * factor - shift);
          sum[r] += of.at[e];
        }
      }
    }
  }
};

template <int kWidth, bool kDropout>
__global__ void __launch_bounds__(ForwardCut<kWidth>::kThreads, ForwardCut<kWidth>::least_blocks(kDropout))
    attention_forward_wgmma_kernel(bfloat16* out, float* lse, const bfloat16* qkv, const int32_t* segment_start,
                                   Heads heads, DropoutSite site) {
#if SFFN_WGMMA
  const mma::ProbabilityDropout dropout(site, heads.time);
  using C = ForwardCut<kWidth>;
  bfloat16* queries = panels_of_block<bfloat16>();
  bfloat16 *keys = queries + C::kTile, *values = keys + 2 * C::kStage;  // two stages each
  const mma::QueryTile<C> tile(heads, segment_start);
  const int kv = heads.kv_head(tile.head), time = static_cast<int>(heads.time);
  const auto ask = [&](bfloat16* to, int64_t from, int k0) {
    ask_rows<C, kStep>(to, qkv + from, heads.qkv_width, time - k0);
  };
  const int k0 = uniform(tile.first_key(segment_start)), steps = tile.last / kStep - k0 / kStep + 1;
  ask_rows<C, C::kRows>(queries, qkv + heads.query(tile.token + tile.q0, tile.head), heads.qkv_width, time - tile.q0);
  ask(keys, heads.key(tile.token + k0, kv), k0);
  commit_copies();
  const float factor = heads.scale * kLog2E;
  // The last step that the warpgroup's queries see.
  const int group = C::group(), query = tile.q0 + group * kGroupRows,
            own_steps = query <= tile.last ? (query - k0) / kStep + 1 : 0;
  RunningSoftmax softmax;
  float shrink[2];
  typename C::Scores s;
  typename C::Sum sum = {};
  FragmentA p[kStep / 16];
  const auto make_probabilities = [&](int key) {
    if (tile.masks(key)) tile.mask(s, key);
    softmax.add(s[0], shrink, factor);
    if constexpr (kDropout) mma::drop(s, dropout, tile, key);
  };
  for (int step = 0; step <= steps; ++step) {  // scores of this step, sums of the one before
    const int key = k0 + step * kStep;
    wait_for_copies<0>();
    publish_copies();
    __syncthreads();  // its keys and the values before are there for all; all have done with what is overwritten
    const bfloat16 *of_step = keys + step % 2 * C::kStage, *of_before = values + (step + 1) % 2 * C::kStage;
    if (step + 1 < steps) ask(keys + (step + 1) % 2 * C::kStage, heads.key(tile.token + key + kStep, kv), key + kStep);
    if (step < steps) ask(values + step % 2 * C::kStage, heads.value(tile.token + key, kv), key);
    commit_copies();
    if (step > own_steps || own_steps == 0) continue;
    if (step == 0) {
      multiply_rows<C>(s[0], queries, of_step, group);
      finish_products<0>(s[0]);
      make_probabilities(key);
      round_to_factors(p, s[0]);
    } else if (step < own_steps) {
      multiply_rows<C>(s[0], queries, of_step, group);
      add_rows<C>(sum, p, of_before);
      finish_products<1>(s[0]);
      make_probabilities(key);
      make_here(s[0]);
      finish_products<0>(sum);
      round_to_factors(p, s[0]);
      SFFN_UNROLL for (auto& of : sum) { SFFN_UNROLL for (int e = 0; e < 4; ++e) of.at[e] *= shrink[e / 2]; }
    } else {
      add_rows<C>(sum, p, of_before);
      finish_products<0>(sum);
    }
  }
  float by[2];
  SFFN_UNROLL for (int r = 0; r < 2; ++r) {
    const float total = mma::quad_reduce(softmax.sum[r], Sum());
    by[r] = (kDropout ? dropout.mask.kept : 1.0f) / total;
    if (lane_column() == 0 && tile.has(r)) {
      lse[tile.pair * heads.time + tile.lane_query(r)] = heads.scale * softmax.largest[r] + logf(total);
    }
  }
  store_rows<C>(out + heads.out(tile.token + tile.query, tile.head), heads.out_width, tile.warp_count(), queries, sum,
                by);
#else
  __trap();  // the host asks for it where it is compiled
#endif
}

}  // namespace
}  // namespace sffn::cuda::attention::wgmma
