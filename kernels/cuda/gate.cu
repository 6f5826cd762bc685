// weights[n,i] of blocks[n,i]: σ(l), exp(l)/Σ_{all B} exp, or exp(l)/Σ_{chosen} exp of l = logits[n, blocks[n,i]]; 0
// for a block of -1. Backward adds to dlogits:
//   σ: dl = dw·σ(l)·σ(-l);  softmax: dl_i = w_i dw_i, then dl_j -= p_j Σ dw w for every j;  chosen: w_i (dw_i - Σ dw w)
//                                       weights, dweights [N,b] f32  blocks [N,b] i32  logits, dlogits [N,B] f32
//
// σ forward: a thread a choice. Otherwise a team of threads has a token (rows.cuh). A token may choose a block twice,
// so its gradients are added by one warp, 32 choices at a time, in their order.
#include "kernels/cuda/match.cuh"
#include "kernels/cuda/sigmoid.cuh"
#include "kernels/cuda/softmax.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace {

struct Sizes {
  int64_t tokens, per_token, blocks;
  int bits;  // that tell blocks apart
};

__global__ void sigmoid_gate_kernel(float* weights, const float* logits, const int32_t* chosen, Sizes s) {
  const int64_t c = int64_t{blockIdx.x} * kRowThreads + threadIdx.x;
  if (c >= s.tokens * s.per_token) return;
  weights[c] = chosen[c] < 0 ? 0.0f : sigmoid(logits[c / s.per_token * s.blocks + chosen[c]]);
}

template <class Team>
__device__ SoftmaxPart chosen_softmax(const float* logits, const int32_t* chosen, int64_t per_token) {
  SoftmaxPart part;
  for_packs<Team, 1>(per_token, [&](int64_t i) {
    if (chosen[i] >= 0) part.add(logits[chosen[i]]);
  });
  return team_softmax<Team>(part);
}

template <class Team, int kPack>
__global__ void softmax_gate_kernel(float* weights, const float* logits, const int32_t* chosen, Sizes s,
                                    bool among_chosen) {
  const int64_t n = Team::row();
  if (n >= s.tokens) return;
  const float* in = logits + n * s.blocks;
  const int32_t* ids = chosen + n * s.per_token;
  const SoftmaxPart row =
      among_chosen ? chosen_softmax<Team>(in, ids, s.per_token) : row_softmax<Team, kPack>(in, s.blocks);
  for_packs<Team, 1>(s.per_token, [&](int64_t i) {
    weights[n * s.per_token + i] = ids[i] < 0 ? 0.0f : expf(in[ids[i]] - row.largest) / row.sum;
  });
}

// dlogits[ids[i]] += gradient(i, ids[i]) for all i in order, -1 apart. By one warp.
template <class Gradient>
__device__ void add_in_order(float* dlogits, const int32_t* ids, const Sizes& s, Gradient&& gradient) {
  const int lane = WarpTeam::rank();
  for (int64_t first = 0; first < s.per_token; first += 32) {
    const int64_t i = first + lane;
    const int32_t id = i < s.per_token ? ids[i] : -1;
    const float own = id >= 0 ? gradient(i, id) : 0.0f;
    float total = id >= 0 ? dlogits[id] : 0.0f;
    const unsigned lanes = lanes_of_block(id, s.bits);
    if (__any_sync(0xffffffffu, id >= 0 && __popc(lanes) > 1)) {
      for (int l = 0; l < 32; ++l) {
        const float other = __shfl_sync(0xffffffffu, own, l);
        if (lanes >> l & 1) total += other;
      }
    } else {
      total += own;
    }
    __syncwarp();  // all have read
    if (id >= 0 && (lanes & lanes_below()) == 0) dlogits[id] = total;
    __syncwarp();
  }
}

__global__ void sigmoid_gate_backward_kernel(float* dlogits, const float* dweights, const float* logits,
                                             const int32_t* chosen, Sizes s) {
  const int64_t n = WarpTeam::row();
  if (n >= s.tokens) return;
  const float *in = logits + n * s.blocks, *dw = dweights + n * s.per_token;
  add_in_order(dlogits + n * s.blocks, chosen + n * s.per_token, s,
               [&](int64_t i, int32_t id) { return dw[i] * sigmoid(in[id]) * sigmoid(-in[id]); });
}

template <class Team, int kPack>
__global__ void softmax_gate_backward_kernel(float* dlogits, const float* dweights, const float* weights,
                                             const float* logits, const int32_t* chosen, Sizes s, bool among_chosen) {
  const int64_t n = Team::row();
  if (n >= s.tokens) return;
  const int32_t* ids = chosen + n * s.per_token;
  const float *dw = dweights + n * s.per_token, *w = weights + n * s.per_token, *in = logits + n * s.blocks;
  float* out = dlogits + n * s.blocks;
  float dot = 0;
  for_packs<Team, 1>(s.per_token, [&](int64_t i) { dot += ids[i] < 0 ? 0.0f : dw[i] * w[i]; });
  dot = team_sum<Team>(dot);
  const float of_chosen = among_chosen ? dot : 0.0f;
  if (Team::rank() < 32) {
    add_in_order(out, ids, s, [&](int64_t i, int32_t) { return w[i] * (dw[i] - of_chosen); });
  }
  if (among_chosen) return;
  // Its barriers, or that of add_in_order where a warp is the team, come before any reads the chosen's gradients.
  const SoftmaxPart row = row_softmax<Team, kPack>(in, s.blocks);
  const float factor = dot / row.sum;
  for_packs<Team, kPack>(s.blocks, [&](int64_t j) {
    const Pack<float, kPack> logit = load_pack<kPack>(in + j);
    Pack<float, kPack> to = load_pack<kPack>(out + j);
#pragma unroll
    for (int k = 0; k < kPack; ++k) to.at[k] -= expf(logit.at[k] - row.largest) * factor;
    store_pack(out + j, to);
  });
}

Sizes sizes_of(const Tensor& logits, const Tensor& blocks) {
  return {logits.rows(), blocks.cols(), logits.cols(), bits_of(logits.cols())};
}
// Bytes of `passes` passes over what the gate needs of logits: all of them, or those of the choices.
double bytes_of_logits(const Tensor& logits, const Tensor& blocks, Gate gate, int64_t passes) {
  return bytes_for<float>(passes * (gate == Gate::kSoftmax ? logits : blocks).numel());
}
// Among the chosen, a row is as long as their number.
int64_t row_width(const Sizes& s, Gate gate) { return gate == Gate::kSoftmax ? s.blocks : 1; }

}  // namespace

void gate_forward(Stream& stream, Tensor weights, const Tensor& logits, const Tensor& blocks, Gate gate) {
  const Sizes s = sizes_of(logits, blocks);
  float* out = weights.data<float>();
  const float* in = logits.data<float>();
  const auto* chosen = blocks.data<int32_t>();
  const Work work{bytes_of(weights, blocks) + bytes_of_logits(logits, blocks, gate, 1)};
  if (gate == Gate::kSigmoid) {
    launch(stream, sigmoid_gate_kernel, {blocks_for(blocks.numel(), kRowThreads), kRowThreads}, work, out, in, chosen,
           s);
    return;
  }
  with_rows(s.tokens, row_width(s, gate), is_aligned(in), [&]<class Team, int kPack>(RowCut<Team, kPack> cut) {
    launch(stream, softmax_gate_kernel<Team, kPack>, cut.shape, work, out, in, chosen, s, gate == Gate::kSoftmaxChosen);
  });
}

void gate_backward(Stream& stream, Tensor dlogits, const Tensor& dweights, const Tensor& weights, const Tensor& logits,
                   const Tensor& blocks, Gate gate) {
  const Sizes s = sizes_of(logits, blocks);
  float* out = dlogits.data<float>();
  const float *dw = dweights.data<float>(), *w = weights.data<float>(), *in = logits.data<float>();
  const auto* chosen = blocks.data<int32_t>();
  // Among the chosen the gradient needs weights and not logits.
  const Work work{bytes_of(dweights, blocks) + (gate != Gate::kSigmoid ? bytes_of(weights) : 0) +
                  bytes_of_logits(logits, blocks, gate, gate == Gate::kSoftmaxChosen ? 2 : 3)};
  if (gate == Gate::kSigmoid) {
    launch(stream, sigmoid_gate_backward_kernel, {blocks_for(s.tokens, WarpTeam::kRowsPerBlock), kRowThreads}, work,
           out, dw, in, chosen, s);
    return;
  }
  with_rows(s.tokens, row_width(s, gate), is_aligned(in) && is_aligned(out),
            [&]<class Team, int kPack>(RowCut<Team, kPack> cut) {
              launch(stream, softmax_gate_backward_kernel<Team, kPack>, cut.shape, work, out, dw, w, in, chosen, s,
                     gate == Gate::kSoftmaxChosen);
            });
}

}  // namespace sffn::cuda
