// out[t,i] = x[t,i] + f_t + g_i for each group of n tokens, x = logits [N,B], from g = 0, `iterations` times
//   f_t = -log Σ_i exp(x[t,i] + s·g_i);   g_i = log(n/B) - log Σ_t exp(x[t,i] + s·f_t),   s = ±1 by variant.
// f: a team of threads has a token (rows.cuh). g: a block of threads makes the parts (softmax.cuh) of 32 blocks over
// kRun tokens; the parts of all runs of a group are then joined in order. An iteration reads the logits twice and
// writes none.
#include "kernels/cuda/softmax.cuh"
#include "kernels/ops.h"

#include <cmath>

namespace sffn::cuda {
namespace {

constexpr int64_t kRun = 256;
constexpr int kTokensAtOnce = 8;

struct Problem {
  const float* logits;
  int64_t rows, tokens, blocks, groups;  // tokens of a group; rows = groups·tokens
  float sign;
  __host__ __device__ int64_t runs() const { return (tokens + kRun - 1) / kRun; }
  __host__ __device__ int64_t strips() const { return (blocks + 31) / 32; }
};

template <class Team, int kPack>
__global__ void token_dual_kernel(float* f, const float* g, Problem p) {
  const int64_t t = Team::row();
  if (t >= p.rows) return;
  const float *x = p.logits + t * p.blocks, *of_group = g + t / p.tokens * p.blocks;
  SoftmaxPart part;
  for_packs<Team, kPack>(p.blocks, [&](int64_t i) {
    const Pack<float, kPack> logits = load_pack<kPack>(x + i), duals = load_pack<kPack>(of_group + i);
#pragma unroll
    for (int k = 0; k < kPack; ++k) part.add(logits.at[k] + p.sign * duals.at[k]);
  });
  const float lse = team_softmax<Team>(part).lse();
  if (Team::rank() == 0) f[t] = -lse;
}

// parts[group·runs + run, i]
__global__ void block_part_kernel(SoftmaxPart* parts, const float* f, Problem p) {
  __shared__ float largest[kTokensAtOnce][32], sum[kTokensAtOnce][32];
  const int64_t unit = blockIdx.x / p.strips(), i = blockIdx.x % p.strips() * 32 + threadIdx.x;
  const int64_t group = unit / p.runs(), first = unit % p.runs() * kRun;
  const int64_t last = first + kRun < p.tokens ? first + kRun : p.tokens;
  SoftmaxPart part;
  for (int64_t t = first + threadIdx.y; t < last && i < p.blocks; t += kTokensAtOnce) {
    const int64_t row = group * p.tokens + t;
    part.add(p.logits[row * p.blocks + i] + p.sign * f[row]);
  }
  largest[threadIdx.y][threadIdx.x] = part.largest, sum[threadIdx.y][threadIdx.x] = part.sum;
  __syncthreads();
  if (threadIdx.y != 0 || i >= p.blocks) return;
  SoftmaxPart all;
  for (int y = 0; y < kTokensAtOnce; ++y) all.largest = fmaxf(all.largest, largest[y][threadIdx.x]);
  for (int y = 0; y < kTokensAtOnce; ++y) {
    part.largest = largest[y][threadIdx.x], part.sum = sum[y][threadIdx.x];
    all.sum += part.sum_below(all.largest);
  }
  parts[unit * p.blocks + i] = all;
}

// share = log(n/B)
__global__ void block_dual_kernel(float* g, const SoftmaxPart* parts, Problem p, float share) {
  const int64_t c = int64_t{blockIdx.x} * kRowThreads + threadIdx.x;
  if (c >= p.groups * p.blocks) return;
  const SoftmaxPart* part = parts + c / p.blocks * p.runs() * p.blocks + c % p.blocks;
  SoftmaxPart all;
  for (int64_t run = 0; run < p.runs(); ++run) all.largest = fmaxf(all.largest, part[run * p.blocks].largest);
  for (int64_t run = 0; run < p.runs(); ++run) all.sum += part[run * p.blocks].sum_below(all.largest);
  g[c] = share - all.lse();
}

template <class Team, int kPack>
__global__ void add_duals_kernel(float* out, const float* f, const float* g, Problem p) {
  const int64_t t = Team::row();
  if (t >= p.rows) return;
  const float *x = p.logits + t * p.blocks, *of_group = g + t / p.tokens * p.blocks, dual = f[t];
  for_packs<Team, kPack>(p.blocks, [&](int64_t i) {
    Pack<float, kPack> pack = load_pack<kPack>(x + i);
    const Pack<float, kPack> duals = load_pack<kPack>(of_group + i);
#pragma unroll
    for (int k = 0; k < kPack; ++k) pack.at[k] += dual + duals.at[k];
    store_pack(out + t * p.blocks + i, pack);
  });
}

}  // namespace

void sinkhorn(Stream& stream, Tensor out, const Tensor& logits, int64_t groups, int64_t iterations, Sinkhorn variant) {
  const Problem p{logits.data<float>(), logits.rows(), logits.rows() / groups,
                  logits.cols(),        groups,        variant == Sinkhorn::kTextbook ? 1.0f : -1.0f};
  if (p.rows == 0) return;
  const int64_t duals = (groups * p.blocks + 3) / 4 * 4, units = groups * p.runs();  // f begins at 16 bytes, as g
  auto* g = workspace<float>(stream, duals + (p.rows + 1) / 2 * 2 + 2 * units * p.blocks);
  float* f = g + duals;
  auto* parts = reinterpret_cast<SoftmaxPart*>(f + (p.rows + 1) / 2 * 2);
  const float share = std::log(static_cast<float>(p.tokens) / static_cast<float>(p.blocks));
  clear_bytes(stream, g, static_cast<size_t>(duals) * sizeof(float));
  const double of_duals = bytes_for<float>(p.rows + groups * p.blocks),
               of_parts = bytes_for<SoftmaxPart>(units * p.blocks);
  with_rows(p.rows, p.blocks, is_aligned(p.logits) && is_aligned(out.raw()),
            [&]<class Team, int kPack>(RowCut<Team, kPack> cut) {
              for (int64_t iteration = 0; iteration < iterations; ++iteration) {
                launch(stream, token_dual_kernel<Team, kPack>, cut.shape, Work{bytes_of(logits) + of_duals}, f, g, p);
                launch(stream, block_part_kernel, {blocks_for(units * p.strips(), 1), dim3(32, kTokensAtOnce)},
                       Work{bytes_of(logits) + bytes_for<float>(p.rows) + of_parts}, parts, f, p);
                launch(stream, block_dual_kernel, {blocks_for(groups * p.blocks, kRowThreads), kRowThreads},
                       Work{of_parts + bytes_for<float>(groups * p.blocks)}, g, parts, p, share);
              }
              launch(stream, add_duals_kernel<Team, kPack>, cut.shape, Work{bytes_of(out, logits) + of_duals},
                     out.data<float>(), f, g, p);
            });
}

}  // namespace sffn::cuda
