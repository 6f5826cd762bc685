// losses[n] = logsumexp_v(logits[n,v]) - logits[n,targets[n]], v < vocab; target -1: loss 0 and no gradient.
// With write_gradient: logits[n,v] = (softmax_v - [v = target])·gradient_scale, and 0 for v >= vocab.
// losses [N] f32  logits [N,Vp] act, overwritten  targets [N] i32
// A block takes a row: each thread keeps a running maximum and sum of its packs, the block joins them, and the gradient
// reads the row once more: from shared memory where a row fits, so that memory is passed once, else from memory. No
// thread writes what another reads.
#include "kernels/cuda/exp2.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/pack.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/ops.h"

#include <cfloat>
#include <cmath>

namespace sffn::cuda {
namespace {

constexpr int64_t kLongRow = 4096;
constexpr int kMostThreads = 512;

// f(first) for the packs of this thread: elements from `first` on, of `count`.
template <int kCount, class F>
__device__ __forceinline__ void for_packs(int count, F&& f) {
  for (int first = static_cast<int>(threadIdx.x) * kCount; first < count;
       first += static_cast<int>(blockDim.x) * kCount) {
    f(first);
  }
}

struct LogSum {
  float largest, sum;  // Σ exp(logit - largest)
};

// Of the scored logits of the row. NaN is not the largest but makes the sum NaN.
template <bool kAligned, class T>
__device__ __forceinline__ LogSum log_sum(const T* logits, int vocab, int padded) {
  constexpr int kCount = kPackCount<T>;
  float largest = -FLT_MAX, sum = 0;
  for_packs<kCount>(vocab, [&](int first) {
    float x[kCount];
    load_in_row<kAligned>(x, logits + first, padded - first);
    if (first + kCount > vocab) {
      SFFN_UNROLL for (int i = 0; i < kCount; ++i) x[i] = first + i < vocab ? x[i] : -INFINITY;
    }
    const float before = largest;
    SFFN_UNROLL for (int i = 0; i < kCount; ++i) largest = fmaxf(largest, x[i]);
    sum *= exp_fast(before - largest);
    SFFN_UNROLL for (int i = 0; i < kCount; ++i) sum += exp_fast(x[i] - largest);
  });
  const float of_row = block_reduce(largest, -FLT_MAX, Max());
  return {of_row, block_sum(sum * exp_fast(largest - of_row))};
}

// Two blocks a multiprocessor: one computes while the other reads.
template <bool kAligned, bool kShared, class T>
__global__ void __launch_bounds__(kMostThreads, 2)
    cross_entropy_kernel(float* losses, T* logits, const int32_t* targets, int vocab, int padded, float gradient_scale,
                         bool write_gradient) {
  constexpr int kCount = kPackCount<T>;
  T* row = logits + int64_t{blockIdx.x} * padded;
  const T* source = row;
  if constexpr (kShared) {
    T* kept = dynamic_shared<T>();
    for_packs<kCount>(padded, [&](int first) { copy_async<16>(kept + first, row + first, true); });
    commit_copies();
    source = kept;
  }
  const int target = targets[blockIdx.x];
  const float of_target = threadIdx.x == 0 && target >= 0 ? to_float(row[target]) : 0.0f;
  if constexpr (kShared) wait_for_copies<0>();  // a thread reads what it copied
  if (target < 0) {
    if (threadIdx.x == 0) losses[blockIdx.x] = 0;
    const float zeros[kCount] = {};
    for_packs<kCount>(write_gradient ? padded : 0,
                      [&](int first) { store_in_row<kAligned>(row + first, zeros, padded - first); });
    return;
  }
  const LogSum total = log_sum<kAligned>(source, vocab, padded);  // a barrier before any thread writes
  if (threadIdx.x == 0) losses[blockIdx.x] = logf(total.sum) + (total.largest - of_target);
  if (!write_gradient) return;
  const float factor = gradient_scale / total.sum;
  for_packs<kCount>(padded, [&](int first) {
    float x[kCount];
    load_in_row<kAligned>(x, source + first, padded - first);
    SFFN_UNROLL for (int i = 0; i < kCount; ++i) x[i] = exp_fast(x[i] - total.largest) * factor;
    if (target >= first && target < first + kCount) {
      SFFN_UNROLL for (int i = 0; i < kCount; ++i) x[i] -= first + i == target ? gradient_scale : 0.0f;
    }
    if (first + kCount > vocab) {
      SFFN_UNROLL for (int i = 0; i < kCount; ++i) x[i] = first + i < vocab ? x[i] : 0.0f;
    }
    store_in_row<kAligned>(row + first, x, padded - first);
  });
}

// Beside the row, for what joins the threads.
constexpr int64_t kOtherShared = 1 << 10;

}  // namespace

void cross_entropy(Stream& stream, Tensor losses, Tensor logits, const Tensor& targets, int64_t vocab,
                   double gradient_scale, bool write_gradient) {
  const int64_t padded = logits.cols();
  const unsigned threads = vocab > kLongRow ? kMostThreads : 128;
  const Work work{bytes_of(losses, targets, logits) + (write_gradient ? bytes_of(logits) : 0)};
  with_activation_type("cross_entropy", logits, [&]<class T>(T) {
    const auto run = [&](auto kernel, int64_t shared) {
      launch(stream, kernel, {blocks_for(logits.rows(), 1), threads, static_cast<size_t>(shared)}, work,
             losses.data<float>(), logits.data<T>(), targets.data<int32_t>(), vocab, padded, gradient_scale,
             write_gradient);
    };
    const int64_t row_bytes = padded * int64_t{sizeof(T)};
    if (!rows_are_packs<T>(padded, {logits.raw()})) return run(cross_entropy_kernel<false, false, T>, 0);
    if (row_bytes + kOtherShared > native(stream).shared_bytes) return run(cross_entropy_kernel<true, false, T>, 0);
    run(cross_entropy_kernel<true, true, T>, row_bytes);
  });
}

}  // namespace sffn::cuda
