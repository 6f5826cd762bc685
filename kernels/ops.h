// The ops of op_list.inc: checked once (contract), then run by the backend of the stream. On the meta device nothing
// runs; contract counts the FLOPs there.
#pragma once
#include "core/stream.h"
#include "kernels/routing.h"
#include "kernels/types.h"

#include <string_view>
#include <utility>

#ifndef SFFN_HAS_CUDA
#define SFFN_HAS_CUDA 0
#endif

namespace sffn {

inline constexpr bool kHasCuda = SFFN_HAS_CUDA;

namespace contract {
#include "kernels/op_list.inc"
}
namespace cpu {
#include "kernels/op_list.inc"
}
namespace cuda {
#include "kernels/op_list.inc"
}

namespace ops {

#ifndef SFFN_RUN_OP  // tests of the CUDA backend send every op there (tests/support/run_on_device.h)
#define SFFN_RUN_OP(name)                                                         \
  if constexpr (kHasCuda) {                                                       \
    if (stream.is_cuda()) return cuda::name(stream, std::forward<Args>(args)...); \
  }                                                                               \
  cpu::name(stream, std::forward<Args>(args)...);
#endif

// The time that a clock measures is not that of the background.
inline void before(Stream& stream, std::string_view op) {
  if (op != "start_clock" && op != "stop_clock") stream.advance_background();
}

#define SFFN_OP(name)                         \
  template <class... Args>                    \
  void name(Stream& stream, Args&&... args) { \
    contract::name(stream, args...);          \
    if (stream.is_meta()) return;             \
    before(stream, #name);                    \
    SFFN_RUN_OP(name)                         \
  }

SFFN_OP(fill_zero)
SFFN_OP(copy)
SFFN_OP(add)
SFFN_OP(sum)
SFFN_OP(sum_of_squares)
SFFN_OP(random_normal)
SFFN_OP(matmul)
SFFN_OP(matmul_activation_forward)
SFFN_OP(matmul_activation_backward)
SFFN_OP(weight_gradient)
SFFN_OP(column_sum)
SFFN_OP(embedding_forward)
SFFN_OP(embedding_backward)
SFFN_OP(add_norm_forward)
SFFN_OP(add_norm_backward)
SFFN_OP(activation_forward)
SFFN_OP(activation_backward)
SFFN_OP(rope_forward)
SFFN_OP(rope_backward)
SFFN_OP(attention_forward)
SFFN_OP(attention_backward)
SFFN_OP(attention_cached)
SFFN_OP(cross_entropy)
SFFN_OP(dropout)
SFFN_OP(tree_sum)
SFFN_OP(start_clock)
SFFN_OP(stop_clock)
SFFN_OP(update_numbers)
SFFN_OP(adamw)
SFFN_OP(block_aggregate_forward)
SFFN_OP(block_aggregate_backward)
SFFN_OP(block_scores_forward)
SFFN_OP(block_scores_backward)
SFFN_OP(top_b)
SFFN_OP(hash_blocks)
SFFN_OP(lookup_blocks)
SFFN_OP(count_blocks)
SFFN_OP(accumulate_counts)
SFFN_OP(limit_capacity)
SFFN_OP(exclusive_scan)
SFFN_OP(sort_by_block)
SFFN_OP(gate_forward)
SFFN_OP(gate_backward)
SFFN_OP(softmax_rows_forward)
SFFN_OP(softmax_rows_backward)
SFFN_OP(group_sum)
SFFN_OP(mean_square)
SFFN_OP(block_weight_sums)
SFFN_OP(add_block_values)
SFFN_OP(balance_loss)
SFFN_OP(update_balance_bias)
SFFN_OP(noisy_scores_forward)
SFFN_OP(noisy_scores_backward)
SFFN_OP(jitter)
SFFN_OP(mask_scores)
SFFN_OP(drop_choices)
SFFN_OP(sigmoid_forward)
SFFN_OP(sigmoid_backward)
SFFN_OP(sinkhorn)
SFFN_OP(auction)
SFFN_OP(block_project)
SFFN_OP(block_project_activation)
SFFN_OP(block_combine)
SFFN_OP(block_weight_gradient)
SFFN_OP(block_bias_gradient)
SFFN_OP(weigh_backward)
SFFN_OP(gather_cells)
SFFN_OP(scatter_cells)
SFFN_OP(permute_rows)
SFFN_OP(product_top_k)
SFFN_OP(product_scores_forward)
SFFN_OP(product_scores_backward)
SFFN_OP(split_columns)
SFFN_OP(join_columns)
SFFN_OP(localise_blocks)
SFFN_OP(sum_parts)
SFFN_OP(ranks_of_blocks)
SFFN_OP(gather_tokens)
SFFN_OP(combine_tokens)
SFFN_OP(value_projection_forward)
SFFN_OP(value_projection_backward)
SFFN_OP(block_dot_forward)
SFFN_OP(block_dot_backward)
SFFN_OP(scale_blocks)
SFFN_OP(count_near_zero)

#undef SFFN_OP

}  // namespace ops
}  // namespace sffn
