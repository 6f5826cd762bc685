// Softmax cross-entropy in place. Memory is read once for the loss (maximum and sum online, block by block) and once
// more, from cache, for the gradient; the softmax is never stored apart from the gradient.
#include "kernels/ref/cross_entropy.h"

#include "core/stream.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/ops.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace sffn::cpu {
namespace {

constexpr int64_t kBlock = 1024;     // logits of one step of the online sum: they stay in the first-level cache
constexpr int64_t kGrain = 1 << 14;  // logits of one unit of work, at least

void check_targets(const int32_t* targets, int64_t rows, int64_t vocab) {
  for (int64_t n = 0; n < rows; ++n) {
    if (targets[n] >= -1 && targets[n] < vocab) continue;
    throw RunError("cross_entropy",
                   cat("row ", n, " has target ", targets[n], "; it must be -1 (not scored) or in [0, ", vocab, ")"));
  }
}

struct LogSum {
  float largest = std::numeric_limits<float>::lowest();
  float sum = 0;  // Σ exp(logit - largest)
};

template <class T>
LogSum log_sum(const T* logits, int64_t vocab) {
  LogSum total;
  for (int64_t begin = 0; begin < vocab; begin += kBlock) {
    const int64_t end = std::min(vocab, begin + kBlock);
    float largest = total.largest;
#pragma omp simd reduction(max : largest)
    for (int64_t v = begin; v < end; ++v) {
      const float logit = static_cast<float>(logits[v]);
      largest = logit > largest ? logit : largest;
    }
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t v = begin; v < end; ++v) sum += exp_f32(static_cast<float>(logits[v]) - largest);
    total.sum = total.sum * exp_f32(total.largest - largest) + sum;
    total.largest = largest;
  }
  return total;
}

template <class T>
float cross_entropy_row(T* logits, int32_t target, int64_t vocab, int64_t padded_vocab, float gradient_scale,
                        bool write_gradient) {
  if (target < 0) {
    if (write_gradient) std::fill(logits, logits + padded_vocab, T(0));
    return 0;
  }
  const LogSum total = log_sum(logits, vocab);
  const float loss = std::log(total.sum) + (total.largest - static_cast<float>(logits[target]));
  if (write_gradient) {
    const float factor = gradient_scale / total.sum;
    const float of_target = exp_f32(static_cast<float>(logits[target]) - total.largest) / total.sum;
#pragma omp simd
    for (int64_t v = 0; v < vocab; ++v) {
      logits[v] = exp_f32(static_cast<float>(logits[v]) - total.largest) * factor;
    }
    logits[target] = (of_target - 1) * gradient_scale;
    std::fill(logits + vocab, logits + padded_vocab, T(0));
  }
  return loss;
}

}  // namespace

void cross_entropy(Stream&, Tensor losses, Tensor logits, const Tensor& targets, int64_t vocab, double gradient_scale,
                   bool write_gradient) {
  const int64_t rows = logits.rows(), padded_vocab = logits.cols();
  const int32_t* target = targets.data<int32_t>();
  check_targets(target, rows, vocab);
  with_float_type(logits.dtype(), [&]<class T>(T) {
    using Acc = AccumulateOf<T>;
    Acc* loss = losses.data<Acc>();
    T* logit = logits.data<T>();
    if constexpr (kIsReference<T>) {
      ref::cross_entropy(loss, logit, target, rows, vocab, padded_vocab, gradient_scale, write_gradient);
    } else {
      parallel_chunks(rows, std::max<int64_t>(1, kGrain / padded_vocab), [&](int64_t first, int64_t last) {
        for (int64_t n = first; n < last; ++n) {
          loss[n] = cross_entropy_row(logit + n * padded_vocab, target[n], vocab, padded_vocab,
                                      static_cast<float>(gradient_scale), write_gradient);
        }
      });
    }
  });
}

}  // namespace sffn::cpu
