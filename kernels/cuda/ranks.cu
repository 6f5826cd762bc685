// localise_blocks:  out[c] = blocks[c] - first where that lies in [0, count), else -1               out, blocks [N,b]
// ranks_of_blocks:  ranks[n,r] = r where one of blocks[n,:] lies in [r·C, (r+1)·C), else -1   ranks [N,R]  blocks [N,b]
// gather_tokens:    out[p,:] = x[order[p] / per_token, :], zeros where order[p] is -1      out [P,C]  x [N,C]
// combine_tokens:   y[n,:] = Σ_r rows[inverse[n,r], :] + bias, r ascending, in fp32
//                                                                        y [N,D]  rows [P,D]  inverse [N,R]
// sum_parts:        the same with row r·N + n for every r
// A thread a choice or a rank of a token; lanes take the rows of the others, which gather_tokens moves as words of 16,
// 4 or 2 bytes.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/row_lanes.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace {

constexpr int kThreads = 256;

struct Sizes {
  int64_t N, R, D;
};

__global__ void localise_blocks_kernel(int32_t* out, const int32_t* blocks, int64_t choices, int64_t first,
                                       int64_t count) {
  const int64_t c = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (c >= choices) return;
  const int64_t local = blocks[c] - first;
  out[c] = static_cast<int32_t>(local >= 0 && local < count ? local : -1);
}

__global__ void ranks_of_blocks_kernel(int32_t* ranks, const int32_t* blocks, int64_t elements, int64_t R, int64_t b,
                                       int64_t C) {
  const int64_t e = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (e >= elements) return;
  const int64_t n = e / R, r = e % R;
  bool hit = false;
  for (int64_t i = 0; i < b; ++i) {
    const int64_t local = blocks[n * b + i] - r * C;
    hit = hit || (local >= 0 && local < C);
  }
  ranks[e] = hit ? static_cast<int32_t>(r) : -1;
}

// Rows of `words` words.
template <class Word>
__global__ void gather_tokens_kernel(Word* out, const Word* x, const int32_t* order, int64_t P, int64_t words,
                                     int64_t per_token) {
  const int64_t p = row_of_thread();
  if (p >= P) return;
  const int64_t place = order[p];
  for (int64_t j = threadIdx.x; j < words; j += blockDim.x) {
    out[p * words + j] = place < 0 ? Word{} : x[place / per_token * words + j];
  }
}

// inverse absent: r·N + n
template <int kCount, class T>
__global__ void combine_kernel(T* y, const T* rows, const int32_t* inverse, const float* bias, Sizes s) {
  const int64_t n = row_of_thread();
  if (n >= s.N) return;
  for (int64_t j = threadIdx.x * kCount; j < s.D; j += blockDim.x * kCount) {
    float total[kCount] = {};
    for (int64_t r = 0; r < s.R; ++r) {
      const int64_t row = inverse == nullptr ? r * s.N + n : inverse[n * s.R + r];
      if (row < 0) continue;
      float part[kCount];
      load_floats(part, rows + row * s.D + j);
#pragma unroll
      for (int e = 0; e < kCount; ++e) total[e] += part[e];
    }
    if (bias != nullptr) {
#pragma unroll
      for (int e = 0; e < kCount; ++e) total[e] += bias[j + e];
    }
    store_floats(y + n * s.D + j, total);
  }
}

template <class T>
void launch_combine(Stream& stream, Tensor y, const Tensor& rows, const int32_t* inverse, const Tensor& bias, Sizes s,
                    double bytes) {
  constexpr int kCount = kPackCount<T>;
  const bool packs = packs_fit(s.D, kCount, y.data<T>(), rows.data<T>());
  launch(stream, packs ? combine_kernel<kCount, T> : combine_kernel<1, T>,
         shape_of_rows(s.N, packs ? s.D / kCount : s.D), Work{bytes}, y.data<T>(), rows.data<T>(), inverse,
         bias.defined() ? bias.data<float>() : nullptr, s);
}

}  // namespace

void localise_blocks(Stream& stream, Tensor out, const Tensor& blocks, int64_t first, int64_t count) {
  launch(stream, localise_blocks_kernel, {blocks_for(blocks.numel(), kThreads), kThreads}, Work{bytes_of(out, blocks)},
         out.data<int32_t>(), blocks.data<int32_t>(), blocks.numel(), first, count);
}

void ranks_of_blocks(Stream& stream, Tensor ranks, const Tensor& blocks, int64_t blocks_of_rank) {
  launch(stream, ranks_of_blocks_kernel, {blocks_for(ranks.numel(), kThreads), kThreads}, Work{bytes_of(ranks, blocks)},
         ranks.data<int32_t>(), blocks.data<int32_t>(), ranks.numel(), ranks.cols(), blocks.cols(), blocks_of_rank);
}

void gather_tokens(Stream& stream, Tensor out, const Tensor& x, const Tensor& order, int64_t per_token) {
  const int64_t P = out.rows();
  const auto row_bytes = x.cols() * static_cast<int64_t>(size_of(x.dtype()));
  const auto run = [&]<class Word>(Word) {
    const int64_t words = row_bytes / static_cast<int64_t>(sizeof(Word));
    launch(stream, gather_tokens_kernel<Word>, shape_of_rows(P, words), Work{2 * bytes_of(out) + bytes_of(order)},
           static_cast<Word*>(out.raw()), static_cast<const Word*>(x.raw()), order.data<int32_t>(), P, words,
           per_token);
  };
  if (row_bytes % 16 == 0 && is_aligned(out.raw()) && is_aligned(x.raw())) return run(uint4{});
  if (row_bytes % 4 == 0 && reinterpret_cast<uintptr_t>(out.raw()) % 4 == 0 &&
      reinterpret_cast<uintptr_t>(x.raw()) % 4 == 0) {
    return run(uint32_t{});
  }
  run(uint16_t{});
}

void combine_tokens(Stream& stream, Tensor y, const Tensor& rows, const Tensor& inverse, const Tensor& bias) {
  const Sizes s{.N = y.rows(), .R = inverse.cols(), .D = y.cols()};
  with_activation_type("combine_tokens", y, [&]<class T>(T) {
    launch_combine<T>(stream, y, rows, inverse.data<int32_t>(), bias, s, bytes_of(y, rows, inverse));
  });
}

void sum_parts(Stream& stream, Tensor y, const Tensor& parts, const Tensor& bias) {
  const Sizes s{.N = y.rows(), .R = parts.shape()[0], .D = y.cols()};
  with_activation_type("sum_parts", y,
                       [&]<class T>(T) { launch_combine<T>(stream, y, parts, nullptr, bias, s, bytes_of(y, parts)); });
}

}  // namespace sffn::cuda
