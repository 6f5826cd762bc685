// A group's tokens are cut into chunks of kRows. One pass over a chunk makes the duals of its tokens and its part of
// every block's sum, as a maximum and a sum of exponentials; parts are joined in the order of chunks.
#include "kernels/ref/sinkhorn.h"

#include "core/stream.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/softmax_row.h"
#include "kernels/ops.h"

#include <algorithm>
#include <limits>

namespace sffn::cpu {
namespace {

constexpr int64_t kRows = 64;
constexpr float kLowest = std::numeric_limits<float>::lowest();

struct Problem {
  float* out;  // between the two halves of an iteration it holds x + s·f
  const float* logits;
  int64_t tokens, blocks, groups;  // tokens of one group
  float sign;
  int64_t chunks() const { return (tokens + kRows - 1) / kRows; }
};

// f of the tokens [first, last) from g; out = x + s·f; largest, sum over these tokens of exp(out - largest), by block.
// dual: f itself, by token of the chunk.
void token_half(const Problem& p, int64_t first, int64_t last, const float* g, float* largest, float* sum,
                float* dual) {
  std::fill(largest, largest + p.blocks, kLowest);
  for (int64_t t = first; t < last; ++t) {
    const float* x = p.logits + t * p.blocks;
    float* shifted = p.out + t * p.blocks;
#pragma omp simd
    for (int64_t i = 0; i < p.blocks; ++i) shifted[i] = x[i] + p.sign * g[i];
    const float f = -softmax_row(shifted, p.blocks).lse();
    dual[t - first] = f;
#pragma omp simd
    for (int64_t i = 0; i < p.blocks; ++i) {
      shifted[i] = x[i] + p.sign * f;
      largest[i] = shifted[i] > largest[i] ? shifted[i] : largest[i];
    }
  }
  std::fill(sum, sum + p.blocks, 0.0f);
  for (int64_t t = first; t < last; ++t) {
    const float* shifted = p.out + t * p.blocks;
#pragma omp simd
    for (int64_t i = 0; i < p.blocks; ++i) sum[i] += exp_f32(shifted[i] - largest[i]);
  }
}

// g of one group from the parts of its chunks, which are [chunks, 2, blocks].
void block_half(const Problem& p, const float* parts, float* g) {
  const float share = std::log(static_cast<float>(p.tokens) / static_cast<float>(p.blocks));
  for (int64_t i = 0; i < p.blocks; ++i) {
    float largest = kLowest, sum = 0;
    for (int64_t chunk = 0; chunk < p.chunks(); ++chunk) {
      largest = std::max(largest, parts[2 * chunk * p.blocks + i]);
    }
    for (int64_t chunk = 0; chunk < p.chunks(); ++chunk) {
      const float* part = parts + 2 * chunk * p.blocks + i;
      sum += part[p.blocks] * exp_f32(part[0] - largest);
    }
    g[i] = share - (std::log(sum) + largest);
  }
}

void run(const Problem& p, int64_t iterations) {
  thread_local Scratch memory;
  const int64_t chunks = p.chunks(), of_duals = p.groups * p.blocks, of_parts = p.groups * chunks * 2 * p.blocks;
  const int64_t of_tokens = p.groups * chunks * kRows;
  auto* duals = static_cast<float*>(memory.get(static_cast<size_t>(of_duals + of_parts + of_tokens) * sizeof(float)));
  float *parts = duals + of_duals, *token_duals = parts + of_parts;
  std::fill(duals, duals + of_duals, 0.0f);
  const auto each_chunk = [&](auto&& body) {
    parallel_chunks(p.groups * chunks, 1, [&](int64_t unit, int64_t) {
      const int64_t group = unit / chunks, first = unit % chunks * kRows;
      body(unit, group, group * p.tokens + first, group * p.tokens + std::min(p.tokens, first + kRows));
    });
  };
  for (int64_t iteration = 0; iteration < iterations; ++iteration) {
    each_chunk([&](int64_t unit, int64_t group, int64_t first, int64_t last) {
      float* part = parts + unit * 2 * p.blocks;
      token_half(p, first, last, duals + group * p.blocks, part, part + p.blocks, token_duals + unit * kRows);
    });
    parallel_chunks(p.groups, 1, [&](int64_t group, int64_t) {
      block_half(p, parts + group * chunks * 2 * p.blocks, duals + group * p.blocks);
    });
  }
  each_chunk([&](int64_t unit, int64_t group, int64_t first, int64_t last) {
    const float* g = duals + group * p.blocks;
    for (int64_t t = first; t < last; ++t) {
      const float f = token_duals[unit * kRows + t - first];
      const float* x = p.logits + t * p.blocks;
      float* out = p.out + t * p.blocks;
#pragma omp simd
      for (int64_t i = 0; i < p.blocks; ++i) out[i] = x[i] + f + g[i];
    }
  });
}

}  // namespace

void sinkhorn(Stream&, Tensor out, const Tensor& logits, int64_t groups, int64_t iterations, Sinkhorn variant) {
  const int64_t tokens = logits.rows() / groups, blocks = logits.cols();
  if (tokens == 0) return;
  with_accumulate_type(logits.dtype(), [&]<class T>(T) {
    T* balanced = out.data<T>();
    const T* x = logits.data<T>();
    if constexpr (kIsReference<T>) {
      for (int64_t s = 0; s < groups; ++s) {
        const int64_t first = s * tokens * blocks;
        ref::sinkhorn_group(balanced + first, x + first, tokens, blocks, iterations, variant);
      }
    } else {
      run({balanced, x, tokens, blocks, groups, variant == Sinkhorn::kTextbook ? 1.0f : -1.0f}, iterations);
    }
  });
}

}  // namespace sffn::cpu
