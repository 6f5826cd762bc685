#include "ffn/block_scores.h"

#include "kernels/ops.h"

#include <algorithm>

namespace sffn {
namespace {

// x itself where it has the accumulate type, else a copy in scratch.
Tensor widened(Context& ctx, const Tensor& x) {
  const DType acc = accumulate_type(x.dtype());
  if (x.dtype() == acc) return x;
  const Tensor wide = ctx.scratch.allocate(x.shape(), acc, "widened x");
  ops::copy(ctx.stream, wide, x);
  return wide;
}

}  // namespace

void block_scores(Context& ctx, Tensor scores, const Tensor& x, const Tensor& table) {
  const ArenaScope scope(ctx.scratch);
  ops::matmul(ctx.stream, scores, widened(ctx, x), Transpose::kNo, table, Transpose::kYes, Tensor(), Accumulate::kNo);
}

void block_scores_backward(Context& ctx, Tensor dtable, Tensor dx, const Tensor& dscores, const Tensor& x,
                           const Tensor& table) {
  const ArenaScope scope(ctx.scratch);
  if (dtable.defined()) {
    ops::matmul(ctx.stream, dtable, dscores, Transpose::kYes, widened(ctx, x), Transpose::kNo, Tensor(),
                Accumulate::kYes);
  }
  if (dx.dtype() == dscores.dtype()) {
    ops::matmul(ctx.stream, dx, dscores, Transpose::kNo, table, Transpose::kNo, Tensor(), Accumulate::kYes);
    return;
  }
  const Tensor wide = ctx.scratch.allocate(dx.shape(), dscores.dtype(), "widened dx");
  ops::matmul(ctx.stream, wide, dscores, Transpose::kNo, table, Transpose::kNo, Tensor(), Accumulate::kNo);
  ops::add(ctx.stream, dx, wide);
}

int64_t score_chunk(int64_t tokens, int64_t columns, DType dtype) {
  constexpr int64_t kBytes = int64_t{32} << 20;
  constexpr int64_t kRows = 128;  // at least so many, for the sake of the GEMM
  const int64_t rows = kBytes / (columns * static_cast<int64_t>(size_of(accumulate_type(dtype))));
  return std::min(tokens, std::max(kRows, rows / kRows * kRows));
}

}  // namespace sffn
