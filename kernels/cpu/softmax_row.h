// The parts of a softmax over one row of floats. NaN anywhere in the row, or no finite logit, makes every result NaN.
#pragma once
#include "kernels/cpu/reduce.h"
#include "kernels/cpu/vector_math.h"

#include <cmath>
#include <limits>

namespace sffn::cpu {

struct SoftmaxRow {
  float largest = 0;
  float sum = 0;  // Σ exp(x - largest)
  float lse() const { return std::log(sum) + largest; }
};

inline SoftmaxRow softmax_row(const float* x, int64_t n) {
  float largest = std::numeric_limits<float>::lowest();
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  return {largest, lane_sum<float>(n, [&](int64_t i) { return exp_f32(x[i] - largest); })};
}

// σ(x), with its relative accuracy on the left.
inline float sigmoid_f32(float x) {
  const float e = exp_f32(x < 0.0f ? x : -x);
  return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

}  // namespace sffn::cpu
