// v[c] = ⟨values[c], router[i]⟩, i = c / G the block of cell c          v [M]  values [M,D] f32 or bf16  router [B,D]
// A warp, or less of it for short rows, takes a cell.
// dvalues[c] += dv[c]·router[i];  drouter[i] += Σ_{c in block i} dv[c]·values[c]
// A block of threads owns 32 columns of a block of cells: each of its warps takes every 8th cell, then the 8 sums are
// added in order.
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/row_lanes.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace {

constexpr int kColumns = 32, kCellsAtOnce = 8;

template <int kCount, class T>
__global__ void value_projection_forward_kernel(float* v, const T* values, const float* router, int64_t M, int64_t G,
                                                int64_t D) {
  const int64_t c = row_of_thread();
  float dot = 0;
  if (c < M) {
    const float* direction = router + c / G * D;
    for (int64_t d = threadIdx.x * kCount; d < D; d += blockDim.x * kCount) {
      float value[kCount], along[kCount];
      load_floats(value, values + c * D + d);
      load_floats(along, direction + d);
      for (int e = 0; e < kCount; ++e) dot += value[e] * along[e];
    }
  }
  dot = lanes_sum(dot);
  if (c < M && threadIdx.x == 0) v[c] = dot;
}

template <class T>
__global__ void value_projection_backward_kernel(float* dvalues, float* drouter, const float* dv, const T* values,
                                                 const float* router, int64_t G, int64_t D, int64_t strips) {
  __shared__ float partial[kCellsAtOnce][kColumns];
  const int64_t i = blockIdx.x / strips, d = blockIdx.x % strips * kColumns + threadIdx.x;
  float sum = 0;
  if (d < D) {
    const float direction = router[i * D + d];
    for (int64_t c = i * G + threadIdx.y; c < (i + 1) * G; c += kCellsAtOnce) {
      const float gradient = dv[c];
      dvalues[c * D + d] += gradient * direction;
      sum += gradient * to_float(values[c * D + d]);
    }
  }
  partial[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || d >= D) return;
  float total = 0;
  for (int y = 0; y < kCellsAtOnce; ++y) total += partial[y][threadIdx.x];
  drouter[i * D + d] += total;
}

}  // namespace

void value_projection_forward(Stream& stream, Tensor v, const Tensor& values, const Tensor& router) {
  const int64_t M = values.rows(), D = values.cols(), G = M / router.rows();
  with_activation_type("value_projection_forward", values, [&]<class T>(T) {
    constexpr int kCount = kPackCount<T>;
    const bool packs = packs_fit(D, kCount, values.data<T>(), router.data<float>());
    launch(stream, packs ? value_projection_forward_kernel<kCount, T> : value_projection_forward_kernel<1, T>,
           shape_of_rows(M, packs ? D / kCount : D, 32), Work{bytes_of(v, values, router), flops_of(M, D)},
           v.data<float>(), values.data<T>(), router.data<float>(), M, G, D);
  });
}

void value_projection_backward(Stream& stream, Tensor dvalues, Tensor drouter, const Tensor& dv, const Tensor& values,
                               const Tensor& router) {
  const int64_t B = router.rows(), D = values.cols(), G = values.rows() / B, strips = (D + kColumns - 1) / kColumns;
  with_activation_type("value_projection_backward", values, [&]<class T>(T) {
    launch(stream, value_projection_backward_kernel<T>,
           {static_cast<unsigned>(B * strips), dim3(kColumns, kCellsAtOnce)},
           Work{bytes_of(dvalues, dvalues, drouter, drouter, dv, values, router), 2 * flops_of(values.numel())},
           dvalues.data<float>(), drouter.data<float>(), dv.data<float>(), values.data<T>(), router.data<float>(), G, D,
           strips);
  });
}

}  // namespace sffn::cuda
