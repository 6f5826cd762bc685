// losses[n] = logsumexp_v(logits[n,v]) - logits[n,targets[n]], v < vocab; target -1: loss 0 and no gradient.
// With write_gradient: logits[n,v] = (softmax_v - [v = target])·gradient_scale, and 0 for v >= vocab.
// losses [N] f32  logits [N,Vp] act, overwritten  targets [N] i32
// A block takes a row: each thread keeps a running maximum and sum of its packs, the block joins them, and the gradient
// reads the row once more, from cache. No thread writes what another reads.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/ops.h"

#include <cfloat>
#include <cmath>

namespace sffn::cuda {
namespace {

constexpr int64_t kLongRow = 4096;

struct LogSum {
  float largest, sum;  // Σ exp(logit - largest)
};

// Of the scored logits of the row. NaN is not the largest but makes the sum NaN.
template <bool kAligned, class T>
__device__ LogSum log_sum(const T* logits, int vocab, int padded) {
  constexpr int kCount = kPackCount<T>;
  float largest = -FLT_MAX, sum = 0;
  for (int first = static_cast<int>(threadIdx.x) * kCount; first < vocab;
       first += static_cast<int>(blockDim.x) * kCount) {
    float x[kCount];
    load_floats<kAligned>(x, logits + first, padded - first);
    const float before = largest;
    for (int i = 0; i < kCount; ++i) {
      if (first + i >= vocab) x[i] = -INFINITY;
      largest = x[i] > largest ? x[i] : largest;
    }
    sum *= expf(before - largest);
    for (int i = 0; i < kCount; ++i) sum += expf(x[i] - largest);
  }
  const float of_row = block_reduce(largest, -FLT_MAX, Max());
  return {of_row, block_sum(sum * expf(largest - of_row))};
}

template <bool kAligned, class T>
__global__ void cross_entropy_kernel(float* losses, T* logits, const int32_t* targets, int vocab, int padded,
                                     float gradient_scale, bool write_gradient) {
  constexpr int kCount = kPackCount<T>;
  T* row = logits + int64_t{blockIdx.x} * padded;
  const int target = targets[blockIdx.x];
  LogSum total{0, 1};
  if (target >= 0) {
    const float of_target = to_float(row[target]);
    total = log_sum<kAligned>(row, vocab, padded);  // a barrier before any thread writes
    if (threadIdx.x == 0) losses[blockIdx.x] = logf(total.sum) + (total.largest - of_target);
  } else if (threadIdx.x == 0) {
    losses[blockIdx.x] = 0;
  }
  if (!write_gradient) return;
  const float factor = gradient_scale / total.sum;
  for (int first = static_cast<int>(threadIdx.x) * kCount; first < padded;
       first += static_cast<int>(blockDim.x) * kCount) {
    float x[kCount] = {};
    if (target >= 0) load_floats<kAligned>(x, row + first, padded - first);
    for (int i = 0; i < kCount; ++i) {
      const int v = first + i;
      const float e = expf(x[i] - total.largest);
      x[i] = v == target ? (e / total.sum - 1) * gradient_scale : e * factor;
      if (v >= vocab || target < 0) x[i] = 0;
    }
    store_floats<kAligned>(row + first, x, padded - first);
  }
}

}  // namespace

void cross_entropy(Stream& stream, Tensor losses, Tensor logits, const Tensor& targets, int64_t vocab,
                   double gradient_scale, bool write_gradient) {
  const unsigned threads = vocab > kLongRow ? 512 : 128;
  const Work work{bytes_of(losses, targets, logits) + (write_gradient ? bytes_of(logits) : 0)};
  with_activation_type("cross_entropy", logits, [&]<class T>(T) {
    const bool aligned = rows_are_packs<T>(logits.cols(), {logits.raw()});
    with_constant(aligned, [&]<bool kAligned>(std::bool_constant<kAligned>) {
      launch(stream, cross_entropy_kernel<kAligned, T>, {blocks_for(logits.rows(), 1), threads}, work,
             losses.data<float>(), logits.data<T>(), targets.data<int32_t>(), vocab, logits.cols(), gradient_scale,
             write_gradient);
    });
  });
}

}  // namespace sffn::cuda
