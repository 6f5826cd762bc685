// A token's chosen logits are few: their part is scalar. What runs over all blocks (softmax) is vector code.
#include "kernels/ref/gate.h"

#include "core/stream.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/index_check.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/softmax_row.h"
#include "kernels/ops.h"

namespace sffn::cpu {
namespace {

constexpr int64_t kGrain = 1 << 14;  // logits of one unit of work, at least

struct Sizes {
  int64_t tokens, per_token, blocks;
  int64_t grain() const { return std::max<int64_t>(1, kGrain / (blocks + per_token)); }
};

// The logits among which a weight is normalised: of all blocks, or of the chosen.
SoftmaxRow normaliser(const float* logits, const int32_t* blocks, const Sizes& s, Gate gate) {
  if (gate == Gate::kSoftmax) return softmax_row(logits, s.blocks);
  SoftmaxRow row{std::numeric_limits<float>::lowest(), 0};
  for (int64_t i = 0; i < s.per_token; ++i) {
    if (blocks[i] >= 0) row.largest = std::max(row.largest, logits[blocks[i]]);
  }
  for (int64_t i = 0; i < s.per_token; ++i) {
    if (blocks[i] >= 0) row.sum += exp_f32(logits[blocks[i]] - row.largest);
  }
  return row;
}

void forward_row(float* weights, const float* logits, const int32_t* blocks, const Sizes& s, Gate gate) {
  if (gate == Gate::kSigmoid) {
    for (int64_t i = 0; i < s.per_token; ++i) weights[i] = blocks[i] < 0 ? 0.0f : sigmoid_f32(logits[blocks[i]]);
    return;
  }
  const SoftmaxRow row = normaliser(logits, blocks, s, gate);
  for (int64_t i = 0; i < s.per_token; ++i) {
    weights[i] = blocks[i] < 0 ? 0.0f : exp_f32(logits[blocks[i]] - row.largest) / row.sum;
  }
}

void backward_row(float* dlogits, const float* dweights, const float* weights, const float* logits,
                  const int32_t* blocks, const Sizes& s, Gate gate) {
  if (gate == Gate::kSigmoid) {
    for (int64_t i = 0; i < s.per_token; ++i) {
      if (blocks[i] < 0) continue;
      const float logit = logits[blocks[i]];
      dlogits[blocks[i]] += dweights[i] * sigmoid_f32(logit) * sigmoid_f32(-logit);
    }
    return;
  }
  float dot = 0;
  for (int64_t i = 0; i < s.per_token; ++i) dot += blocks[i] < 0 ? 0.0f : dweights[i] * weights[i];
  const float of_chosen = gate == Gate::kSoftmaxChosen ? dot : 0.0f;
  for (int64_t i = 0; i < s.per_token; ++i) {
    if (blocks[i] >= 0) dlogits[blocks[i]] += weights[i] * (dweights[i] - of_chosen);
  }
  if (gate == Gate::kSoftmaxChosen) return;
  const SoftmaxRow row = softmax_row(logits, s.blocks);
  const float factor = dot / row.sum, largest = row.largest;
#pragma omp simd
  for (int64_t j = 0; j < s.blocks; ++j) dlogits[j] -= exp_f32(logits[j] - largest) * factor;
}

}  // namespace

void gate_forward(Stream&, Tensor weights, const Tensor& logits, const Tensor& blocks, Gate gate) {
  const Sizes s{logits.rows(), blocks.cols(), logits.cols()};
  const int32_t* chosen = blocks.data<int32_t>();
  check_blocks("gate_forward", blocks, s.blocks);
  with_accumulate_type(logits.dtype(), [&]<class T>(T) {
    T* out = weights.data<T>();
    const T* in = logits.data<T>();
    if constexpr (kIsReference<T>) {
      ref::gate_forward(out, in, chosen, s.tokens, s.per_token, s.blocks, gate);
    } else {
      parallel_chunks(s.tokens, s.grain(), [&](int64_t first, int64_t last) {
        for (int64_t n = first; n < last; ++n) {
          forward_row(out + n * s.per_token, in + n * s.blocks, chosen + n * s.per_token, s, gate);
        }
      });
    }
  });
}

void gate_backward(Stream&, Tensor dlogits, const Tensor& dweights, const Tensor& weights, const Tensor& logits,
                   const Tensor& blocks, Gate gate) {
  const Sizes s{logits.rows(), blocks.cols(), logits.cols()};
  const int32_t* chosen = blocks.data<int32_t>();
  check_blocks("gate_backward", blocks, s.blocks);
  with_accumulate_type(logits.dtype(), [&]<class T>(T) {
    T* out = dlogits.data<T>();
    const T *gradient = dweights.data<T>(), *weight = weights.data<T>(), *in = logits.data<T>();
    if constexpr (kIsReference<T>) {
      ref::gate_backward(out, gradient, weight, in, chosen, s.tokens, s.per_token, s.blocks, gate);
    } else {
      parallel_chunks(s.tokens, s.grain(), [&](int64_t first, int64_t last) {
        for (int64_t n = first; n < last; ++n) {
          const int64_t row = n * s.blocks, choice = n * s.per_token;
          backward_row(out + row, gradient + choice, weight + choice, in + row, chosen + choice, s, gate);
        }
      });
    }
  });
}

}  // namespace sffn::cpu
