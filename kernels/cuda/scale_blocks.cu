// out[n,c] = weights[n,i]·h[n,c], i = c / G the block of cell c          out, h [N,M] f32 or bf16  weights [N,B] f32
// Lanes take rows of [N·B,G]. out may be h: an element is read by the thread that writes it.
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/row_lanes.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace {

template <int kCount, class T>
__global__ void scale_blocks_kernel(T* out, const T* h, const float* weights, int64_t rows, int64_t G) {
  const int64_t p = row_of_thread();
  if (p >= rows) return;
  const float weight = weights[p];
  for (int64_t j = threadIdx.x * kCount; j < G; j += blockDim.x * kCount) {
    float x[kCount];
    load_floats(x, h + p * G + j);
    for (int e = 0; e < kCount; ++e) x[e] *= weight;
    store_floats(out + p * G + j, x);
  }
}

}  // namespace

void scale_blocks(Stream& stream, Tensor out, const Tensor& h, const Tensor& weights) {
  const int64_t rows = weights.numel(), G = h.cols() / weights.cols();
  with_activation_type("scale_blocks", h, [&]<class T>(T) {
    constexpr int kCount = kPackCount<T>;
    const bool packs = packs_fit(G, kCount, out.data<T>(), h.data<T>());
    launch(stream, packs ? scale_blocks_kernel<kCount, T> : scale_blocks_kernel<1, T>,
           shape_of_rows(rows, packs ? G / kCount : G), Work{bytes_of(out, h, weights)}, out.data<T>(), h.data<T>(),
           weights.data<float>(), rows, G);
  });
}

}  // namespace sffn::cuda
