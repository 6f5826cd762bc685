// Scores of blocks, in the accumulate type whatever the precision: routers, block means and what follows them are fp32
// in bf16 models (design.md section 3).
#pragma once
#include "nn/context.h"

namespace sffn {

// scores [N, B] acc = x·Tᵀ, x [N, D] act, T [B, D] acc
void block_scores(Context&, Tensor scores, const Tensor& x, const Tensor& table);
// dT += dscoresᵀ·x (absent: not wanted);  dx [N, D] act += dscores·T
void block_scores_backward(Context&, Tensor dtable, Tensor dx, const Tensor& dscores, const Tensor& x,
                           const Tensor& table);

// Rows of a [*, columns] acc table that one chunk of tokens may take in scratch: choosing goes in chunks where the
// table over all tokens would be large. A function of the sizes alone.
int64_t score_chunk(int64_t tokens, int64_t columns, DType);

}  // namespace sffn
