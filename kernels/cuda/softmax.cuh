// The parts of a softmax: the largest logit and Σ exp(x - largest), in one pass. NaN, or plus infinity, makes the sum
// NaN; without a finite logit it is 0.
#pragma once
#include "kernels/cuda/rows.cuh"

namespace sffn::cuda {

struct SoftmaxPart {
  static constexpr float kLowest = -0x1.fffffep127f;
  float largest = kLowest, sum = 0;

  __device__ __forceinline__ void add(float x) {
    if (x > largest) {
      sum *= expf(largest - x);
      largest = x;
    }
    sum += expf(x - largest);
  }
  // What stands for the numbers of both, when `of_both` is the largest of all.
  __device__ __forceinline__ float sum_below(float of_both) const { return sum * expf(largest - of_both); }
  __device__ __forceinline__ float lse() const { return logf(sum) + largest; }
};

// The parts of a row from those of its threads.
template <class Team>
__device__ __forceinline__ SoftmaxPart team_softmax(const SoftmaxPart& part) {
  SoftmaxPart row;
  row.largest = Team::reduce(part.largest, SoftmaxPart::kLowest, Max());
  row.sum = team_sum<Team>(part.sum_below(row.largest));
  return row;
}

template <class Team, int kPack>
__device__ __forceinline__ SoftmaxPart row_softmax(const float* x, int64_t width) {
  SoftmaxPart part;
  for_packs<Team, kPack>(width, [&](int64_t i) {
    const Pack<float, kPack> pack = load_pack<kPack>(x + i);
#pragma unroll
    for (int k = 0; k < kPack; ++k) part.add(pack.at[k]);
  });
  return team_softmax<Team>(part);
}

}  // namespace sffn::cuda
