// y = σ(x);  dx = dy·σ(x)·σ(-x)                                                     all [N,B] f32; in place if wanted
// A thread has four neighbours, read and written at once where the tensors begin at 16 bytes.
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/sigmoid.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace {

constexpr int kThreads = 256, kPack = 4;

struct Forward {
  float* y;
  const float* x;
  template <int kCount>
  __device__ void run(int64_t i) const {
    Pack<float, kCount> pack = load_pack<kCount>(x + i);
#pragma unroll
    for (int k = 0; k < kCount; ++k) pack.at[k] = sigmoid(pack.at[k]);
    store_pack(y + i, pack);
  }
};

struct Backward {
  float* dx;
  const float *dy, *x;
  template <int kCount>
  __device__ void run(int64_t i) const {
    const Pack<float, kCount> at = load_pack<kCount>(x + i);
    Pack<float, kCount> pack = load_pack<kCount>(dy + i);
#pragma unroll
    for (int k = 0; k < kCount; ++k) pack.at[k] *= sigmoid(at.at[k]) * sigmoid(-at.at[k]);
    store_pack(dx + i, pack);
  }
};

template <class Body>
__global__ void sigmoid_kernel(Body body, int64_t n, bool packed) {
  const int64_t first = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kPack;
  if (packed && first + kPack <= n) return body.template run<kPack>(first);
  for (int64_t i = first; i < n && i < first + kPack; ++i) body.template run<1>(i);
}

template <class Body>
void run(Stream& stream, const Body& body, int64_t n, bool packed, const Work& work) {
  launch(stream, sigmoid_kernel<Body>, {blocks_for(n, int64_t{kThreads} * kPack), kThreads}, work, body, n, packed);
}

}  // namespace

void sigmoid_forward(Stream& stream, Tensor y, const Tensor& x) {
  const Forward body{y.data<float>(), x.data<float>()};
  run(stream, body, x.numel(), is_aligned(body.y) && is_aligned(body.x), Work{bytes_of(y, x)});
}

void sigmoid_backward(Stream& stream, Tensor dx, const Tensor& dy, const Tensor& x) {
  const Backward body{dx.data<float>(), dy.data<float>(), x.data<float>()};
  run(stream, body, x.numel(), is_aligned(body.dx) && is_aligned(body.dy) && is_aligned(body.x),
      Work{bytes_of(dx, dy, x)});
}

}  // namespace sffn::cuda
