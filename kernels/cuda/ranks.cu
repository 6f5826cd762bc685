// localise_blocks:  out[c] = blocks[c] - first where that lies in [0, count), else -1               out, blocks [N,b]
// sum_parts:        y[n,:] = Σ_r parts[r,n,:] + bias, r ascending, in fp32        y [N,D]  parts [R,N,D]  bias [D]
// Lanes take rows of D elements; a thread sums its columns over all parts.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/row_lanes.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void localise_blocks_kernel(int32_t* out, const int32_t* blocks, int64_t choices, int64_t first,
                                       int64_t count) {
  const int64_t c = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (c >= choices) return;
  const int64_t local = blocks[c] - first;
  out[c] = static_cast<int32_t>(local >= 0 && local < count ? local : -1);
}

struct Sizes {
  int64_t R, N, D;
};

template <int kCount, class T>
__global__ void sum_parts_kernel(T* y, const T* parts, const float* bias, Sizes s) {
  const int64_t n = row_of_thread();
  if (n >= s.N) return;
  for (int64_t j = threadIdx.x * kCount; j < s.D; j += blockDim.x * kCount) {
    float total[kCount] = {};
    for (int64_t r = 0; r < s.R; ++r) {
      float part[kCount];
      load_floats(part, parts + (r * s.N + n) * s.D + j);
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

}  // namespace

void localise_blocks(Stream& stream, Tensor out, const Tensor& blocks, int64_t first, int64_t count) {
  launch(stream, localise_blocks_kernel, {blocks_for(blocks.numel(), kThreads), kThreads},
         Work{bytes_of(out, blocks)}, out.data<int32_t>(), blocks.data<int32_t>(), blocks.numel(), first, count);
}

void sum_parts(Stream& stream, Tensor y, const Tensor& parts, const Tensor& bias) {
  const Sizes s{.R = parts.shape()[0], .N = y.rows(), .D = y.cols()};
  const float* to_add = bias.defined() ? bias.data<float>() : nullptr;
  with_activation_type("sum_parts", y, [&]<class T>(T) {
    constexpr int kCount = kPackCount<T>;
    const bool packs = packs_fit(s.D, kCount, y.data<T>(), parts.data<T>());
    launch(stream, packs ? sum_parts_kernel<kCount, T> : sum_parts_kernel<1, T>,
           shape_of_rows(s.N, packs ? s.D / kCount : s.D), Work{bytes_of(y, parts)}, y.data<T>(), parts.data<T>(),
           to_add, s);
  });
}

}  // namespace sffn::cuda
