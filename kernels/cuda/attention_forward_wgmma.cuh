// Attention forward on warpgroups (attention_wgmma.cuh): two of 64 queries a block, over 64 keys a step. While a step's
// probabilities are made, the products of the step before with its values go on: a step asks for its scores, then for
// those products, and the next step waits for the sums. So keys arrive one step ahead of values, and values stay
// longer.
#pragma once
#include "kernels/cuda/attention_wgmma.cuh"

namespace sffn::cuda::attention::wgmma {
namespace {

template <int kWidth, bool kDropout>
using ForwardCut = std::conditional_t<kWidth == 64, Cut<64, 2, 2>, Cut<128, kDropout ? 2 : 3, 1>>;

// The running softmax of the lane's two rows. `sum` is of the lane's own columns until the end.
struct RunningSoftmax {
  static constexpr float kSlack = 8;
  float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {};

  // s = 2^(factor·(s - m)), and what was summed before is to shrink by `shrink`. m follows the maximum of each row
  // where it has grown by 2^kSlack, so that few steps shrink sums. A row that has seen no key yet keeps m = -infinity.
  template <class Row>
  __device__ __forceinline__ void add(Row& s, float (&shrink)[2], float factor) {
    SFFN_UNROLL for (int r = 0; r < 2; ++r) {
      float most = fmaxf(s[0].at[2 * r], s[0].at[2 * r + 1]);
      SFFN_UNROLL for (int n = 1; n < kStep / 8; ++n) most = fmaxf(most, fmaxf(s[n].at[2 * r], s[n].at[2 * r + 1]));
      most = mma::quad_reduce(most, mma::Largest());
      shrink[r] = 1;
      if (factor * (most - largest[r]) > kSlack) {
        shrink[r] = exp2_fast(factor * (largest[r] - most));
        largest[r] = most;
        sum[r] *= shrink[r];
      }
      const float shift = largest[r] == -INFINITY ? 0.0f : largest[r] * factor;
      SFFN_UNROLL for (int n = 0; n < kStep / 8; ++n) {
        SFFN_UNROLL for (int e = 2 * r; e < 2 * r + 2; ++e) {
          s[n].at[e] = exp2_fast(s[n].at[e] * factor - shift);
          sum[r] += s[n].at[e];
        }
      }
    }
  }
};

template <int kWidth, bool kDropout>
__global__ void __launch_bounds__(ForwardCut<kWidth, kDropout>::kThreads,
                                  ForwardCut<kWidth, kDropout>::least_blocks(kDropout))
    attention_forward_wgmma_kernel(bfloat16* out, float* lse, const bfloat16* qkv, const int32_t* segment_start,
                                   Heads heads, DropoutSite site) {
#if SFFN_WGMMA
  const mma::ProbabilityDropout dropout(site, heads.time);
  using C = ForwardCut<kWidth, kDropout>;
  bfloat16* queries = panels_of_block<bfloat16>();
  bfloat16 *keys = queries + C::kTile, *values = keys + 2 * C::kStage;  // two stages and three
  const mma::QueryTile<C> tile(heads, segment_start);
  const int kv = heads.kv_head(tile.head), time = static_cast<int>(heads.time);
  const int k0 = uniform(tile.first_key(segment_start)), steps = tile.last / kStep - k0 / kStep + 1;
  RowPieces<C, C::kRows>(qkv + heads.query(tile.token + tile.q0, tile.head), heads.qkv_width, time - tile.q0)
      .ask(queries);
  RowPieces<C, kStep> pieces(qkv + heads.key(tile.token + k0, kv), heads.qkv_width, time - k0);
  const int to_value = heads.kv_heads * heads.head_dim;  // from a key
  pieces.ask(keys);
  commit_copies();
  const float factor = heads.scale * kLog2E;
  // The last step that the warpgroup's queries see.
  const int group = C::group(), query = tile.q0 + group * kGroupRows,
            own_steps = query <= tile.last ? (query - k0) / kStep + 1 : 0;
  const uint64_t own = describe_own(queries, group), rows = describe_rows(keys), columns = describe_columns(values);
  RunningSoftmax softmax;
  float shrink[2];
  typename C::Scores s;
  typename C::Sum sum = {};
  FragmentA p[kStep / 16];
  const auto begin_step = [&](int step) {
    wait_for_copies<0>();
    publish_copies();
    __syncthreads();  // its keys and the values before are there for all; all have done with what is overwritten
    if (step < steps) pieces.ask(values + step % 3 * C::kStage, to_value);
    pieces.advance();
    if (step + 1 < steps) pieces.ask(keys + (step + 1) % 2 * C::kStage);
    commit_copies();
  };
  const auto make_probabilities = [&](int step) {
    const int key = k0 + step * kStep;
    if (tile.masks(key)) tile.mask(s, key);
    softmax.add(s[0], shrink, factor);
    if constexpr (kDropout) mma::drop(s, dropout, tile, key);
  };
  const auto take_probabilities = [&] {
    finish_products<0>(sum);
    round_to_factors(p, s[0]);
    if (__any_sync(0xffffffffu, shrink[0] < 1 || shrink[1] < 1) == 0) return;
    make_here(sum);  // a branch that is seldom taken
    SFFN_UNROLL for (int c = 0; c < kWidth / 8; ++c) {
      SFFN_UNROLL for (int e = 0; e < 4; ++e) sum[c].at[e] *= shrink[e / 2];
    }
  };
  begin_step(0);
  int step = 1;
  if (own_steps > 0) {
    multiply_rows<C>(s[0], own, rows);
    finish_products<0>(s[0]);
    make_probabilities(0);
    for (; step < own_steps; ++step) {
      begin_step(step);
      take_probabilities();
      multiply_rows<C>(s[0], own, further(rows, step % 2 * C::kStage));
      add_rows<C>(sum, p, further(columns, (step - 1) % 3 * C::kStage));
      finish_products<1>(s[0]);
      make_probabilities(step);
    }
    begin_step(step);
    take_probabilities();
    add_rows<C>(sum, p, further(columns, (step - 1) % 3 * C::kStage));
    finish_products<0>(sum);
    ++step;
  }
  for (; step <= steps; ++step) begin_step(step);  // of other warpgroups
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
