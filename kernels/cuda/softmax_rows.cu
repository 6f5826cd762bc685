// p[n,:] = softmax(scores[n,:]); lse[n] = log Σ_i exp scores[n,i]                         p, scores [N,B]  lse [N]
// dscores[n,:] += p[n,:] ⊙ (dp[s,:] - ⟨p[n,:], dp[s,:]⟩ + lse_scale·lse[n])               dp [S,B], or absent
// A team of threads has a row (rows.cuh): one pass for what the whole row gives, one to write.
#include "kernels/cuda/softmax.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace {

template <class Team, int kPack>
__global__ void softmax_rows_forward_kernel(float* p, float* lse, const float* scores, int64_t rows, int64_t columns) {
  const int64_t n = Team::row();
  if (n >= rows) return;
  const float* in = scores + n * columns;
  const SoftmaxPart row = row_softmax<Team, kPack>(in, columns);
  if (lse != nullptr && Team::rank() == 0) lse[n] = row.lse();
  const float factor = 1.0f / row.sum;
  for_packs<Team, kPack>(columns, [&](int64_t i) {
    Pack<float, kPack> pack = load_pack<kPack>(in + i);
#pragma unroll
    for (int k = 0; k < kPack; ++k) pack.at[k] = expf(pack.at[k] - row.largest) * factor;
    store_pack(p + n * columns + i, pack);
  });
}

// group_rows: rows of a group of dp.
template <class Team, int kPack>
__global__ void softmax_rows_backward_kernel(float* dscores, const float* p, const float* dp, const float* lse,
                                             float lse_scale, int64_t rows, int64_t columns, int64_t group_rows) {
  const int64_t n = Team::row();
  if (n >= rows) return;
  const float *in = p + n * columns, *of_group = dp == nullptr ? nullptr : dp + n / group_rows * columns;
  float shift = lse == nullptr ? 0.0f : lse_scale * lse[n];
  if (dp != nullptr) {
    float dot = 0;
    for_packs<Team, kPack>(columns, [&](int64_t i) {
      const Pack<float, kPack> probability = load_pack<kPack>(in + i), gradient = load_pack<kPack>(of_group + i);
#pragma unroll
      for (int k = 0; k < kPack; ++k) dot += probability.at[k] * gradient.at[k];
    });
    shift -= team_sum<Team>(dot);
  }
  float* out = dscores + n * columns;
  for_packs<Team, kPack>(columns, [&](int64_t i) {
    const Pack<float, kPack> probability = load_pack<kPack>(in + i);
    Pack<float, kPack> gradient{}, to = load_pack<kPack>(out + i);
    if (dp != nullptr) gradient = load_pack<kPack>(of_group + i);
#pragma unroll
    for (int k = 0; k < kPack; ++k) to.at[k] += probability.at[k] * (gradient.at[k] + shift);
    store_pack(out + i, to);
  });
}

}  // namespace

void softmax_rows_forward(Stream& stream, Tensor p, Tensor lse, const Tensor& scores) {
  const int64_t rows = scores.rows(), columns = scores.cols();
  with_rows(rows, columns, is_aligned(p.raw()) && is_aligned(scores.raw()),
            [&]<class Team, int kPack>(RowCut<Team, kPack> cut) {
              launch(stream, softmax_rows_forward_kernel<Team, kPack>, cut.shape, Work{bytes_of(p, lse, scores)},
                     p.data<float>(), lse.data_or_null<float>(), scores.data<float>(), rows, columns);
            });
}

void softmax_rows_backward(Stream& stream, Tensor dscores, const Tensor& p, const Tensor& dp, const Tensor& lse,
                           double lse_scale) {
  const int64_t rows = p.rows(), columns = p.cols(), group_rows = rows / (dp.defined() ? dp.rows() : 1);
  with_rows(rows, columns, is_aligned(dscores.raw()) && is_aligned(p.raw()) && is_aligned(dp.raw()),
            [&]<class Team, int kPack>(RowCut<Team, kPack> cut) {
              launch(stream, softmax_rows_backward_kernel<Team, kPack>, cut.shape,
                     Work{bytes_of(dscores, dscores, p, dp, lse)}, dscores.data<float>(), p.data<float>(),
                     dp.data_or_null<float>(), lse.data_or_null<float>(), lse_scale, rows, columns, group_rows);
            });
}

}  // namespace sffn::cuda
