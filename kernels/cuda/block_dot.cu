// scores[n,i] = Σ_{c in block i} h[n,c]·v[c]                      scores [N,B]  h [N,M] f32 or bf16  v [M], M = B·G
// The lanes of a row of [N·B,G] sum their products.
// dh[n,c] += dscores[n,i]·v[c];  dv[c] = Σ_n dscores[n,i]·h[n,c]
// A thread owns a cell and a range of tokens, reads h once for both, and leaves its part of dv, which a second kernel
// adds in the order of ranges. Their number follows from N alone.
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/row_lanes.cuh"
#include "kernels/ops.h"

#include <algorithm>

namespace sffn::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kRanges = 64, kShortest = 32;  // at most, of at least so many tokens

template <int kCount, class T>
__global__ void block_dot_forward_kernel(float* scores, const T* h, const float* v, int64_t rows, int64_t B,
                                         int64_t G) {
  const int64_t p = row_of_thread();
  float dot = 0;
  if (p < rows) {
    const float* factors = v + p % B * G;
    for (int64_t j = threadIdx.x * kCount; j < G; j += blockDim.x * kCount) {
      float cell[kCount], factor[kCount];
      load_floats(cell, h + p * G + j);
      load_floats(factor, factors + j);
      for (int e = 0; e < kCount; ++e) dot += cell[e] * factor[e];
    }
  }
  dot = lanes_sum(dot);
  if (p < rows && threadIdx.x == 0) scores[p] = dot;
}

struct Sizes {
  int64_t N, M, B, G, range, strips;
};

template <class T>
__global__ void block_dot_backward_kernel(T* dh, float* partial, const float* dscores, const T* h, const float* v,
                                          Sizes s) {
  const int64_t c = blockIdx.x % s.strips * kThreads + threadIdx.x, range = blockIdx.x / s.strips;
  if (c >= s.M) return;
  const int64_t i = c / s.G, first = range * s.range, last = first + s.range < s.N ? first + s.range : s.N;
  const float factor = v[c];
  float sum = 0;
  for (int64_t n = first; n < last; ++n) {
    const float dscore = dscores[n * s.B + i];
    sum += dscore * to_float(h[n * s.M + c]);
    store(dh[n * s.M + c], to_float(dh[n * s.M + c]) + dscore * factor);
  }
  partial[range * s.M + c] = sum;
}

__global__ void add_ranges_kernel(float* dv, const float* partial, int64_t ranges, int64_t M) {
  const int64_t c = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (c >= M) return;
  float sum = 0;
  for (int64_t range = 0; range < ranges; ++range) sum += partial[range * M + c];
  dv[c] = sum;
}

}  // namespace

void block_dot_forward(Stream& stream, Tensor scores, const Tensor& h, const Tensor& v) {
  const int64_t B = scores.cols(), G = h.cols() / B, rows = h.rows() * B;
  with_activation_type("block_dot_forward", h, [&]<class T>(T) {
    constexpr int kCount = kPackCount<T>;
    const bool packs = packs_fit(G, kCount, h.data<T>(), v.data<float>());
    launch(stream, packs ? block_dot_forward_kernel<kCount, T> : block_dot_forward_kernel<1, T>,
           shape_of_rows(rows, packs ? G / kCount : G, 32), Work{bytes_of(scores, h, v), flops_of(h.numel())},
           scores.data<float>(), h.data<T>(), v.data<float>(), rows, B, G);
  });
}

void block_dot_backward(Stream& stream, Tensor dh, Tensor dv, const Tensor& dscores, const Tensor& h, const Tensor& v) {
  Sizes s{.N = h.rows(), .M = h.cols(), .B = dscores.cols(), .G = h.cols() / dscores.cols(), .range = 0, .strips = 0};
  s.range = std::max(kShortest, (s.N + kRanges - 1) / kRanges), s.strips = (s.M + kThreads - 1) / kThreads;
  const int64_t ranges = (s.N + s.range - 1) / s.range;
  auto* partial = workspace<float>(stream, ranges * s.M);
  with_activation_type("block_dot_backward", h, [&]<class T>(T) {
    launch(stream, block_dot_backward_kernel<T>, {static_cast<unsigned>(ranges * s.strips), kThreads},
           Work{bytes_of(dh, dh, dscores, h, v) + bytes_for<float>(ranges * s.M), 2 * flops_of(h.numel())},
           dh.data<T>(), partial, dscores.data<float>(), h.data<T>(), v.data<float>(), s);
  });
  launch(stream, add_ranges_kernel, {blocks_for(s.M, kThreads), kThreads},
         Work{bytes_for<float>(ranges * s.M) + bytes_of(dv)}, dv.data<float>(), partial, ranges, s.M);
}

}  // namespace sffn::cuda
