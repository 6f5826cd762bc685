#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/runtime.h"

#include "simt/seeded.h"

namespace sffn::test {
namespace {

using cuda::dynamic_shared;
using cuda::launch;
using cuda::Work;

__global__ void missing_barrier(float* y) {  // reads a neighbour's write
  __shared__ float s[64];
  s[threadIdx.x] = static_cast<float>(threadIdx.x);
  y[threadIdx.x] = s[(threadIdx.x + 63) % 64];
}
__global__ void with_barrier(float* y) {
  __shared__ float s[64];
  s[threadIdx.x] = static_cast<float>(threadIdx.x);
  __syncthreads();
  y[threadIdx.x] = s[(threadIdx.x + 63) % 64];
}
__global__ void missing_second_barrier(float* y) {  // the next round overwrites before all have read
  __shared__ float s[64];
  for (int round = 0; round < 3; ++round) {
    s[threadIdx.x] = static_cast<float>(round);
    __syncthreads();
    y[threadIdx.x] += s[(threadIdx.x + 1) % 64];
  }
}
__global__ void blocks_write_one_word(float* y) { y[0] = static_cast<float>(blockIdx.x); }
__global__ void relies_on_lockstep(float* y) {
  __shared__ float s[32];
  s[threadIdx.x] = static_cast<float>(threadIdx.x);
  y[threadIdx.x] = s[31 - threadIdx.x];
}
__global__ void synchronises_the_warp(float* y) {
  __shared__ float s[32];
  s[threadIdx.x] = static_cast<float>(threadIdx.x);
  __syncwarp();
  y[threadIdx.x] = s[31 - threadIdx.x];
}
__global__ void writes_behind_the_end(float* y, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i > n) return;  // >= is meant
  y[i] = 1;
}
__global__ void shared_overrun(float* y) {
  __shared__ float s[63];
  s[threadIdx.x] = 1;
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}
__global__ void dynamic_shared_overrun(float* y) {
  float* s = dynamic_shared<float>();
  s[threadIdx.x] = 1;
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}
__global__ void two_barriers_for_one(float* y) {
  if (threadIdx.x < 32) {
    y[threadIdx.x] = 1;
    __syncthreads();
  } else {
    y[threadIdx.x] = 2;
    __syncthreads();
  }
}
__global__ void barrier_after_a_return(float* y) {
  if (threadIdx.x == 5) return;
  __syncthreads();
  y[threadIdx.x] = 1;
}
__global__ void shuffle_of_a_part(float* y, int n) {  // the full mask, though some lanes have returned
  if (static_cast<int>(threadIdx.x) >= n) return;
  y[threadIdx.x] = cuda::warp_sum(1.0f);
}
__global__ void shuffle_from_outside_the_mask(float* y) {
  if (threadIdx.x < 16) y[threadIdx.x] = __shfl_sync(0xffffu, 1.0f, 20);
}
__global__ void unwritten_dynamic_shared(float* y) { y[threadIdx.x] = dynamic_shared<float>()[threadIdx.x]; }
__global__ void atomic_count(float* y) { atomicAdd(&y[0], 1.0f); }
__global__ void block_sums(float* y) {
  const float first = cuda::block_sum(static_cast<float>(threadIdx.x)), second = cuda::block_sum(1.0f);
  y[threadIdx.x] = first - second;
}

template <class... Args>
void run_to_the_end(void (*kernel)(float*, Args...), const cuda::LaunchShape& shape, float* y, Args... args) {
  Stream stream(cuda_runtime());
  launch(stream, kernel, shape, cuda::Work{}, y, args...);
  stream.synchronize();
}

}  // namespace

const std::vector<Seeded>& seeded_kernels() {
  static const std::vector<Seeded> all = {
      {"missing barrier", Finder::kThread,
       [](float* y) {
         run_to_the_end(missing_barrier, {1, 64}, y);
       }},
      {"missing second barrier", Finder::kThread,
       [](float* y) {
         run_to_the_end(missing_second_barrier, {1, 64}, y);
       }},
      {"blocks write one word", Finder::kThread,
       [](float* y) {
         run_to_the_end(blocks_write_one_word, {4, 1}, y);
       }},
      {"relies on lockstep", Finder::kThread,
       [](float* y) {
         run_to_the_end(relies_on_lockstep, {1, 32}, y);
       }},
      {"writes behind the end", Finder::kAddress,
       [](float* y) {
         run_to_the_end(writes_behind_the_end, {2, 64}, y, 64);
       }},
      {"shared overrun", Finder::kAddress,
       [](float* y) {
         run_to_the_end(shared_overrun, {1, 64}, y);
       }},
      {"dynamic shared overrun", Finder::kAddress,
       [](float* y) {
         run_to_the_end(dynamic_shared_overrun, {1, 64, 63 * sizeof(float)}, y);
       }},
      {"two barriers for one", Finder::kPlain,
       [](float* y) {
         run_to_the_end(two_barriers_for_one, {1, 64}, y);
       }},
      {"barrier after a return", Finder::kPlain,
       [](float* y) {
         run_to_the_end(barrier_after_a_return, {1, 64}, y);
       }},
      {"shuffle of a part", Finder::kPlain,
       [](float* y) {
         run_to_the_end(shuffle_of_a_part, {1, 64}, y, 40);
       }},
      {"shuffle from outside the mask", Finder::kPlain,
       [](float* y) {
         run_to_the_end(shuffle_from_outside_the_mask, {1, 32}, y);
       }},
      {"unwritten dynamic shared", Finder::kValue,
       [](float* y) {
         run_to_the_end(unwritten_dynamic_shared, {1, 64, 256}, y);
       }},
      {"a barrier where it belongs", Finder::kNone,
       [](float* y) {
         run_to_the_end(with_barrier, {1, 64}, y);
       }},
      {"a warp barrier where it belongs", Finder::kNone,
       [](float* y) {
         run_to_the_end(synchronises_the_warp, {1, 32}, y);
       }},
      {"atomics of all blocks", Finder::kNone,
       [](float* y) {
         run_to_the_end(atomic_count, {8, 64}, y);
       }},
      {"sums of a block, one after the other", Finder::kNone,
       [](float* y) {
         run_to_the_end(block_sums, {1, 64}, y);
       }},
  };
  return all;
}

}  // namespace sffn::test
