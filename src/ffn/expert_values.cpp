// The block product of a memory of values alone (pkm): h = 1, so y = Σ_i a_i V[i] + c_v over blocks of one cell, and x
// enters through the weights only.
#include "ffn/expert_compute.h"
#include "kernels/ops.h"
#include "nn/linear.h"

#include <algorithm>

namespace sffn {

void ExpertCompute::forward_values(Context& ctx, Tensor y, const Selection& chosen, Saved& saved,
                                   const Tensor& value_bias) const {
  if (form_ == ExpertForm::kGrouped) saved.routing = route(ctx, chosen);
  const ArenaScope scope(ctx.scratch);
  Stream& stream = ctx.stream;
  const Tensor values = tables_.values->value;
  const Tensor a = weights_as_rows(ctx, chosen, y.dtype());
  if (form_ == ExpertForm::kGrouped) {
    const Tensor sorted = ctx.scratch.allocate(a.shape(), a.dtype(), "weights by block");
    ops::permute_rows(stream, sorted, a, saved.routing.order);
    ops::block_combine(stream, y, sorted, Tensor(), values, value_bias, saved.routing, Accumulate::kNo);
    return;
  }
  const int64_t N = y.rows(), b = shape_.per_token, chunk = chunk_tokens(N, y.dtype());
  const Tensor all_cells = ctx.scratch.allocate({chunk, shape_.cells}, y.dtype(), "all cells");
  for (int64_t first = 0; first < N; first += chunk) {
    const int64_t count = std::min(chunk, N - first);
    const Tensor cells = all_cells.slice(0, count);
    ops::scatter_cells(stream, cells, a.slice(first * b, count * b), Tensor(), chosen.kept.slice(first, count));
    ops::matmul(stream, y.slice(first, count), cells, Transpose::kNo, values, Transpose::kNo, value_bias,
                Accumulate::kNo);
  }
}

// y = Σ_i a_i V[i], so da_i = ⟨dy, V[i]⟩ and dV[i] += a_i dy
void ExpertCompute::backward_values(Context& ctx, Tensor dweights, const Tensor& dy, const Selection& chosen,
                                    const Saved& saved) const {
  Stream& stream = ctx.stream;
  const Tensor values = tables_.values->value, dvalues = tables_.values->grad;
  const Tensor a = weights_as_rows(ctx, chosen, dy.dtype());
  const Tensor da = ctx.scratch.allocate(a.shape(), a.dtype(), "gradients of weights");
  if (form_ == ExpertForm::kGrouped) {
    const Tensor sorted = ctx.scratch.allocate(a.shape(), a.dtype(), "weights by block, then their gradients");
    ops::permute_rows(stream, sorted, a, saved.routing.order);
    ops::block_weight_gradient(stream, dvalues, sorted, Tensor(), dy, saved.routing);
    ops::block_project(stream, sorted, dy, values, Tensor(), saved.routing);
    ops::permute_rows(stream, da, sorted, saved.routing.inverse);
  } else {
    const int64_t N = dy.rows(), b = shape_.per_token, chunk = chunk_tokens(N, dy.dtype());
    const Tensor all_cells = ctx.scratch.allocate({chunk, shape_.cells}, dy.dtype(), "all cells");
    for (int64_t first = 0; first < N; first += chunk) {
      const int64_t count = std::min(chunk, N - first);
      const Tensor cells = all_cells.slice(0, count), part = dy.slice(first, count);
      const Tensor blocks = chosen.kept.slice(first, count);
      ops::matmul(stream, cells, part, Transpose::kNo, values, Transpose::kYes, Tensor(), Accumulate::kNo);
      ops::gather_cells(stream, da.slice(first * b, count * b), cells, Tensor(), blocks);
      ops::scatter_cells(stream, cells, a.slice(first * b, count * b), Tensor(), blocks);
      ops::matmul(stream, dvalues, cells, Transpose::kYes, part, Transpose::kNo, Tensor(), Accumulate::kYes);
    }
  }
  ops::copy(stream, dweights, da);
}

// The weights [N, b] in the dtype of the products, a row a choice: [P, 1] in scratch.
Tensor ExpertCompute::weights_as_rows(Context& ctx, const Selection& chosen, DType dtype) const {
  const Tensor rows = ctx.scratch.allocate({chosen.weights.numel(), 1}, dtype, "weights as rows");
  ops::copy(ctx.stream, rows, chosen.weights);
  return rows;
}

}  // namespace sffn
