// counts[0] += n;  counts[1 + t] += elements with |f(z)| < kNearZero[t]                counts [4] f64  z [n]
// Blocks of threads count in whole numbers; one block adds their counts.
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/ops.h"

namespace sffn::cuda {
namespace {

constexpr int kThreads = 256, kBounds = static_cast<int>(kNearZero.size());
constexpr int64_t kPerThread = 8, kMostBlocks = 1024;
static_assert(kBounds == 3);

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ __forceinline__ float activation(float z, Activation f) {
  switch (f) {
    case Activation::kRelu:
      return z > 0 ? z : 0.0f;
    case Activation::kGelu:  // z·σ(2u), u = √(2/π)(z + 0.044715 z³)
      return z * sigmoid(1.5957691216057308f * (z + 0.044715f * z * z * z));
    case Activation::kGeluErf:
      return z * 0.5f * erfcf(-0.7071067811865476f * z);
    case Activation::kSilu:
      return z * sigmoid(z);
  }
  return 0.0f;
}

// found[t·blocks + block]
template <class T>
__global__ void near_zero_kernel(int64_t* found, const T* z, int64_t n, Activation f) {
  constexpr float kBound[kBounds] = {static_cast<float>(kNearZero[0]), static_cast<float>(kNearZero[1]),
                                     static_cast<float>(kNearZero[2])};
  int64_t below[kBounds] = {};
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n; i += step) {
    const float size = fabsf(activation(to_float(z[i]), f));
    for (int t = 0; t < kBounds; ++t) below[t] += size < kBound[t];
  }
  for (int t = 0; t < kBounds; ++t) {
    const int64_t sum = block_sum(below[t]);
    if (threadIdx.x == 0) found[int64_t{t} * gridDim.x + blockIdx.x] = sum;
  }
}

__global__ void add_found_kernel(double* counts, const int64_t* found, int64_t blocks, int64_t n) {
  if (threadIdx.x == 0) counts[0] += static_cast<double>(n);
  for (int t = 0; t < kBounds; ++t) {
    int64_t sum = 0;
    for (int64_t i = threadIdx.x; i < blocks; i += kThreads) sum += found[t * blocks + i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) counts[1 + t] += static_cast<double>(sum);
  }
}

}  // namespace

void count_near_zero(Stream& stream, Tensor counts, const Tensor& z, Activation f) {
  const int64_t n = z.numel();
  const unsigned blocks = blocks_for(n, kThreads * kPerThread, kMostBlocks);
  auto* found = workspace<int64_t>(stream, kBounds * int64_t{blocks});
  const double of_found = bytes_for<int64_t>(kBounds * int64_t{blocks});
  with_activation_type("count_near_zero", z, [&]<class T>(T) {
    launch(stream, near_zero_kernel<T>, {blocks, kThreads}, Work{bytes_of(z) + of_found}, found, z.data<T>(), n, f);
  });
  launch(stream, add_found_kernel, {1, kThreads}, Work{of_found + bytes_of(counts, counts)}, counts.data<double>(),
         found, int64_t{blocks}, n);
}

}  // namespace sffn::cuda
