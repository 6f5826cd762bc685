// y = σ(x);  dx = dy·σ(x)·σ(-x)                                                     all [N,B] f32; in place if wanted
// A thread has a pack of four floats where the tensors begin at 16 bytes, and one of the last few.
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/sigmoid.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace {

constexpr int kThreads = 256;

struct Forward {
  float* y;
  const float* x;
  template <int kPack>
  __device__ void run(int64_t i) const {
    Pack<float, kPack> pack = load_pack<kPack>(x + i);
#pragma unroll
    for (int k = 0; k < kPack; ++k) pack.at[k] = sigmoid(pack.at[k]);
    store_pack(y + i, pack);
  }
};

struct Backward {
  float* dx;
  const float *dy, *x;
  template <int kPack>
  __device__ void run(int64_t i) const {
    const Pack<float, kPack> at = load_pack<kPack>(x + i);
    Pack<float, kPack> pack = load_pack<kPack>(dy + i);
#pragma unroll
    for (int k = 0; k < kPack; ++k) pack.at[k] *= sigmoid(at.at[k]) * sigmoid(-at.at[k]);
    store_pack(dx + i, pack);
  }
};

template <class Body, int kPack>
__global__ void sigmoid_kernel(Body body, int64_t n) {
  const int64_t i = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kPack;
  if (i + kPack <= n) return body.template run<kPack>(i);
  for (int64_t last = i; last < n; ++last) body.template run<1>(last);
}

template <class Body>
void run(Stream& stream, const Body& body, int64_t n, bool aligned) {
  const int pack = aligned ? 4 : 1;
  launch(stream, aligned ? sigmoid_kernel<Body, 4> : sigmoid_kernel<Body, 1>,
         {blocks_for(n, int64_t{kThreads} * pack), kThreads}, body, n);
}

}  // namespace

void sigmoid_forward(Stream& stream, Tensor y, const Tensor& x) {
  const Forward body{y.data<float>(), x.data<float>()};
  run(stream, body, x.numel(), is_aligned(body.y) && is_aligned(body.x));
}

void sigmoid_backward(Stream& stream, Tensor dx, const Tensor& dy, const Tensor& x) {
  const Backward body{dx.data<float>(), dy.data<float>(), x.data<float>()};
  run(stream, body, x.numel(), is_aligned(body.dx) && is_aligned(body.dy) && is_aligned(body.x));
}

}  // namespace sffn::cuda
