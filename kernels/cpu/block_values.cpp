#include "kernels/ref/block_values.h"

#include "core/stream.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/index_check.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/scratch.h"
#include "kernels/ops.h"

namespace sffn::cpu {
namespace {

constexpr int64_t kGrain = 1 << 14;

// One group: choices in order, in double, so that a sum over many tokens keeps the accuracy of f32.
void sum_group(float* sums, const float* weights, const int32_t* blocks, int64_t choices, int64_t block_count) {
  thread_local Scratch scratch;
  auto* total = static_cast<double*>(scratch.get(static_cast<size_t>(block_count) * sizeof(double)));
  std::fill(total, total + block_count, 0.0);
  for (int64_t c = 0; c < choices; ++c) {
    if (blocks[c] >= 0) total[blocks[c]] += static_cast<double>(weights[c]);
  }
  for (int64_t i = 0; i < block_count; ++i) sums[i] = static_cast<float>(total[i]);
}

}  // namespace

void block_weight_sums(Stream&, Tensor sums, const Tensor& weights, const Tensor& blocks) {
  const int64_t tokens = blocks.rows(), per_token = blocks.cols(), groups = sums.rows(), block_count = sums.cols();
  const int32_t* chosen = blocks.data<int32_t>();
  check_blocks("block_weight_sums", blocks, block_count);
  with_accumulate_type(sums.dtype(), [&]<class T>(T) {
    T* out = sums.data<T>();
    const T* weight = weights.data<T>();
    if constexpr (kIsReference<T>) {
      ref::block_weight_sums(out, weight, chosen, tokens, per_token, groups, block_count);
    } else {
      const int64_t choices = tokens / groups * per_token;
      parallel_chunks(groups, 1, [&](int64_t first, int64_t last) {
        for (int64_t s = first; s < last; ++s) {
          sum_group(out + s * block_count, weight + s * choices, chosen + s * choices, choices, block_count);
        }
      });
    }
  });
}

void add_block_values(Stream&, Tensor out, const Tensor& per_block, const Tensor& blocks) {
  const int64_t tokens = blocks.rows(), per_token = blocks.cols();
  const int64_t groups = per_block.rows(), block_count = per_block.cols();
  const int32_t* chosen = blocks.data<int32_t>();
  check_blocks("add_block_values", blocks, block_count);
  with_accumulate_type(out.dtype(), [&]<class T>(T) {
    T* value = out.data<T>();
    const T* of_block = per_block.data<T>();
    if constexpr (kIsReference<T>) {
      ref::add_block_values(value, of_block, chosen, tokens, per_token, groups, block_count);
    } else {
      const int64_t choices = tokens / groups * per_token;
      parallel_chunks(blocks.numel(), kGrain, [&](int64_t first, int64_t last) {
        for (int64_t c = first; c < last; ++c) {
          if (chosen[c] >= 0) value[c] += of_block[c / choices * block_count + chosen[c]];
        }
      });
    }
  });
}

}  // namespace sffn::cpu
