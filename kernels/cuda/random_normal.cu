// x[i] = mean-0 normal of standard deviation `std`, element first + i of the stream, rounded to float; truncated: drawn
// again beyond ±2 from the same element of further streams. A thread an element: runs once, when a model is made.
//                                                                                                   x [n] f32 or bf16
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/random.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void random_normal_kernel(T* x, int64_t n, RandomKey key, int64_t first, double std, bool truncated) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= n) return;
  const auto index = static_cast<uint64_t>(first + i);
  double value = normal_at(key, index);
  for (uint64_t attempt = 1; truncated && fabs(value) > 2; ++attempt) {
    value = normal_at({key.seed, mix64(key.stream ^ attempt)}, index);
  }
  store(x[i], static_cast<float>(std * value));
}

}  // namespace

void random_normal(Stream& stream, Tensor x, RandomKey key, int64_t first, double std, bool truncated) {
  with_activation_type("random_normal", x, [&]<class T>(T) {
    launch(stream, random_normal_kernel<T>, {blocks_for(x.numel(), kThreads), kThreads}, Work{bytes_of(x)}, x.data<T>(),
           x.numel(), key, first, std, truncated);
  });
}

}  // namespace sffn::cuda
