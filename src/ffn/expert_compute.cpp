#include "ffn/expert_compute.h"

#include "kernels/ops.h"
#include "nn/linear.h"

#include <algorithm>

namespace sffn {
namespace {

// Of one [tokens, M] table of the masked form. Each chunk adds to the whole gradient of the weights: large ones do so
// seldom.
constexpr int64_t kMaskedBytes = int64_t{256} << 20;
constexpr int64_t kMaskedTokens = 128;  // at least so many, for the sake of the GEMM

Tensor rows_of(const Tensor& t, int64_t first, int64_t count) { return t.defined() ? t.slice(first, count) : Tensor(); }

}  // namespace

ExpertCompute::Cells ExpertCompute::allocate(Arena& arena, int64_t rows, DType dtype) const {
  Cells hidden;
  hidden.z = arena.allocate({rows, shape_.block_size}, dtype, "ffn z");
  if (shape_.gated) hidden.gate = arena.allocate({rows, shape_.block_size}, dtype, "ffn gate");
  return hidden;
}

ExpertCompute::Cells ExpertCompute::slice(const Cells& hidden, int64_t first, int64_t rows) const {
  return {.z = hidden.z.slice(first, rows), .gate = rows_of(hidden.gate, first, rows)};
}

int64_t ExpertCompute::chunk_tokens(int64_t tokens, DType dtype) const {
  const int64_t row_bytes = shape_.cells * static_cast<int64_t>(size_of(dtype));
  return std::min(tokens, std::max(kMaskedTokens, kMaskedBytes / row_bytes));
}

BlockRouting ExpertCompute::route(Context& ctx, const Selection& chosen) const {
  const int64_t N = chosen.kept.rows(), b = chosen.kept.cols(), B = shape_.blocks();
  BlockRouting routing{.order = {},
                       .inverse = {},
                       .offsets = {},
                       .blocks = B,
                       .per_token = b,
                       .chunk = std::clamp<int64_t>(N, 1, chunk_)};
  const int64_t chunks = (N + routing.chunk - 1) / routing.chunk;
  routing.order = ctx.saved.allocate({N * b}, DType::kI32, "routing order");
  routing.inverse = ctx.saved.allocate({N * b}, DType::kI32, "routing inverse");
  routing.offsets = ctx.saved.allocate({chunks * B + 1}, DType::kI32, "routing offsets");

  const ArenaScope scope(ctx.scratch);
  const Tensor counts = ctx.scratch.allocate({chunks, B}, DType::kI32, "choices per block");
  for (int64_t c = 0; c < chunks; ++c) {
    const int64_t first = c * routing.chunk, count = std::min(routing.chunk, N - first);
    ops::count_blocks(ctx.stream, counts.slice(c, 1), chosen.kept.slice(first, count));
  }
  ops::exclusive_scan(ctx.stream, routing.offsets, counts.view({chunks * B}));
  ops::sort_by_block(ctx.stream, routing, chosen.kept);
  return routing;
}

// out = x·Tᵀ + bias at the chosen blocks, in the order of the form
void ExpertCompute::project(Context& ctx, Tensor out, const Tensor& x, const Param& table, const Param* bias,
                            const Saved& saved, const Selection& chosen) const {
  if (form_ == ExpertForm::kGrouped) {
    return ops::block_project(ctx.stream, out, x, table.value, value_of(bias), saved.routing);
  }
  const ArenaScope scope(ctx.scratch);
  const int64_t N = x.rows(), b = shape_.per_token, chunk = chunk_tokens(N, x.dtype());
  const Tensor all_cells = ctx.scratch.allocate({chunk, shape_.cells}, x.dtype(), "all cells");
  for (int64_t first = 0; first < N; first += chunk) {
    const int64_t count = std::min(chunk, N - first);
    const Tensor cells = all_cells.slice(0, count);
    ops::matmul(ctx.stream, cells, x.slice(first, count), Transpose::kNo, table.value, Transpose::kYes, value_of(bias),
                Accumulate::kNo);
    ops::gather_cells(ctx.stream, out.slice(first * b, count * b), cells, Tensor(), chosen.kept.slice(first, count));
  }
}

// From the order of choices to that of the form.
void ExpertCompute::place(Context& ctx, Tensor out, const Tensor& known, const Saved& saved) const {
  if (form_ == ExpertForm::kGrouped) return ops::permute_rows(ctx.stream, out, known, saved.routing.order);
  ops::copy(ctx.stream, out, known);
}

// z, gate, and h = f(z) or f(gate) ⊙ z where it is wanted
void ExpertCompute::make_cells(Context& ctx, const Cells& cells, Tensor h, const Tensor& x, const Saved& saved,
                               const Selection& chosen, const Cells& known) const {
  if (known.gate.defined()) {
    place(ctx, cells.gate, known.gate, saved);
  } else if (shape_.gated) {
    project(ctx, cells.gate, x, *tables_.gate_keys, nullptr, saved, chosen);
  }
  if (form_ == ExpertForm::kGrouped && h.defined() && !known.z.defined()) {
    return ops::block_project_activation(ctx.stream, h, cells.z, x, tables_.keys->value, value_of(tables_.key_bias),
                                         cells.gate, saved.routing, shape_.activation);
  }
  if (known.z.defined()) {
    place(ctx, cells.z, known.z, saved);
  } else {
    project(ctx, cells.z, x, *tables_.keys, tables_.key_bias, saved, chosen);
  }
  if (h.defined()) ops::activation_forward(ctx.stream, h, cells.z, cells.gate, shape_.activation);
}

// y = Σ_i a_i h_i V_i + c_v
void ExpertCompute::combine(Context& ctx, Tensor y, const Tensor& h, const Saved& saved, const Selection& chosen,
                            const Tensor& value_bias) const {
  const ArenaScope scope(ctx.scratch);
  Stream& stream = ctx.stream;
  const Tensor values = tables_.values->value;
  if (form_ == ExpertForm::kGrouped) {
    ops::block_combine(stream, y, h, chosen.weights, values, value_bias, saved.routing, Accumulate::kNo);
    return;
  }
  const int64_t N = y.rows(), b = shape_.per_token, chunk = chunk_tokens(N, y.dtype());
  const Tensor all_cells = ctx.scratch.allocate({chunk, shape_.cells}, y.dtype(), "all cells");
  for (int64_t first = 0; first < N; first += chunk) {
    const int64_t count = std::min(chunk, N - first);
    const Tensor cells = all_cells.slice(0, count);
    ops::scatter_cells(stream, cells, h.slice(first * b, count * b), rows_of(chosen.weights, first, count),
                       chosen.kept.slice(first, count));
    ops::matmul(stream, y.slice(first, count), cells, Transpose::kNo, values, Transpose::kNo, value_bias,
                Accumulate::kNo);
  }
}

void ExpertCompute::forward(Context& ctx, Tensor y, const Tensor& x, const Selection& chosen, Saved& saved,
                            const Cells& known) const {
  if (tables_.share.spread()) return forward_spread(ctx, y, x, chosen);
  forward_here(ctx, y, x, chosen, saved, value_of(tables_.value_bias), known);
}

void ExpertCompute::forward_here(Context& ctx, Tensor y, const Tensor& x, const Selection& chosen, Saved& saved,
                                 const Tensor& value_bias, const Cells& known) const {
  if (!shape_.keys) return forward_values(ctx, y, chosen, saved, value_bias);
  if (form_ == ExpertForm::kGrouped) saved.routing = route(ctx, chosen);
  const ArenaScope scope(ctx.scratch);
  const Cells cells = allocate(recompute_ ? ctx.scratch : ctx.saved, chosen.kept.numel(), x.dtype());
  if (!recompute_) saved.cells = cells;
  // A z that is not kept gives its place to h.
  const Tensor h = recompute_ ? cells.z : ctx.scratch.allocate(cells.z.shape(), x.dtype(), "ffn h");
  make_cells(ctx, cells, h, x, saved, chosen, known);
  combine(ctx, y, h, saved, chosen, value_bias);
}

void ExpertCompute::backward(Context& ctx, Tensor dx, Tensor dweights, const Tensor& dy, const Tensor& x,
                             const Selection& chosen, const Saved& saved, const Cells& known) const {
  // y = … + c_v
  if (tables_.value_bias != nullptr) ops::column_sum(ctx.stream, tables_.value_bias->grad, dy);
  if (!shape_.keys) ops::fill_zero(ctx.stream, dx);  // h = 1
  if (tables_.share.spread()) return backward_spread(ctx, dx, dweights, dy, x, chosen);
  backward_here(ctx, dx, dweights, dy, x, chosen, saved, known);
}

void ExpertCompute::backward_here(Context& ctx, Tensor dx, Tensor dweights, const Tensor& dy, const Tensor& x,
                                  const Selection& chosen, const Saved& saved, const Cells& known) const {
  const ArenaScope scope(ctx.scratch);
  if (!shape_.keys) return backward_values(ctx, dweights, dy, chosen, saved);
  const Cells hidden = recompute_ ? allocate(ctx.scratch, chosen.kept.numel(), x.dtype()) : saved.cells;
  if (form_ == ExpertForm::kGrouped) {
    const Tensor h = ctx.scratch.allocate(hidden.z.shape(), x.dtype(), "ffn h, then dgate");
    if (recompute_) {
      make_cells(ctx, hidden, h, x, saved, chosen, known);
    } else {
      ops::activation_forward(ctx.stream, h, hidden.z, hidden.gate, shape_.activation);
    }
    backward_grouped(ctx, dx, dweights, dy, x, chosen, saved, hidden, h);
  } else {
    if (recompute_) make_cells(ctx, hidden, Tensor(), x, saved, chosen, known);
    backward_masked(ctx, dx, dweights, dy, x, chosen, hidden);
  }
}

void ExpertCompute::backward_grouped(Context& ctx, Tensor dx, Tensor dweights, const Tensor& dy, const Tensor& x,
                                     const Selection& chosen, const Saved& saved, const Cells& hidden,
                                     const Tensor& h) const {
  Stream& stream = ctx.stream;
  const BlockRouting& routing = saved.routing;
  // y = Σ_i a_i h_i V_i
  ops::block_weight_gradient(stream, tables_.values->grad, h, chosen.weights, dy, routing);
  const Tensor dz = ctx.scratch.allocate(hidden.z.shape(), x.dtype(), "ffn dh, then dz");
  ops::block_project(stream, dz, dy, tables_.values->value, Tensor(), routing);
  if (chosen.weights.defined()) ops::weigh_backward(stream, dz, dweights, h, chosen.weights, routing.inverse);

  // h = f(z) or f(gate) ⊙ z
  const Tensor dgate = shape_.gated ? h : Tensor();
  ops::activation_backward(stream, dz, dgate, dz, hidden.z, hidden.gate, shape_.activation);

  // z = x·K_iᵀ + c_i,  gate = x·G_iᵀ
  ops::block_combine(stream, dx, dz, Tensor(), tables_.keys->value, Tensor(), routing, Accumulate::kNo);
  ops::block_weight_gradient(stream, tables_.keys->grad, dz, Tensor(), x, routing);
  if (tables_.key_bias != nullptr) ops::block_bias_gradient(stream, tables_.key_bias->grad, dz, routing);
  if (!shape_.gated) return;
  ops::block_combine(stream, dx, dgate, Tensor(), tables_.gate_keys->value, Tensor(), routing, Accumulate::kYes);
  ops::block_weight_gradient(stream, tables_.gate_keys->grad, dgate, Tensor(), x, routing);
}

void ExpertCompute::backward_masked(Context& ctx, Tensor dx, Tensor dweights, const Tensor& dy, const Tensor& x,
                                    const Selection& chosen, const Cells& hidden) const {
  Stream& stream = ctx.stream;
  const DType act = x.dtype();
  const int64_t N = x.rows(), b = shape_.per_token, G = shape_.block_size, chunk = chunk_tokens(N, act);
  const Tensor all_cells = ctx.scratch.allocate({chunk, shape_.cells}, act, "all cells");
  const Tensor h_rows = ctx.scratch.allocate({chunk * b, G}, act, "ffn h, then dgate");
  const Tensor dz_rows = ctx.scratch.allocate({chunk * b, G}, act, "ffn dh, then dz");
  for (int64_t first = 0; first < N; first += chunk) {
    const int64_t count = std::min(chunk, N - first);
    const Tensor cells = all_cells.slice(0, count), h = h_rows.slice(0, count * b), dz = dz_rows.slice(0, count * b);
    const Tensor dy_part = dy.slice(first, count), x_part = x.slice(first, count), dx_part = dx.slice(first, count);
    const Tensor blocks = chosen.kept.slice(first, count), weights = rows_of(chosen.weights, first, count);
    const Cells part = slice(hidden, first * b, count * b);
    const auto through = [&](const Param& table, const Param* bias, const Tensor& drows, Accumulate to_dx) {
      ops::scatter_cells(stream, cells, drows, Tensor(), blocks);
      ops::weight_gradient(stream, table.grad, grad_of(bias), cells, x_part, Transpose::kYes);
      ops::matmul(stream, dx_part, cells, Transpose::kNo, table.value, Transpose::kNo, Tensor(), to_dx);
    };
    ops::activation_forward(stream, h, part.z, part.gate, shape_.activation);

    // y = Σ_i a_i h_i V_i
    ops::matmul(stream, cells, dy_part, Transpose::kNo, tables_.values->value, Transpose::kYes, Tensor(),
                Accumulate::kNo);
    ops::gather_cells(stream, dz, cells, Tensor(), blocks);
    ops::scatter_cells(stream, cells, h, weights, blocks);
    ops::matmul(stream, tables_.values->grad, cells, Transpose::kYes, dy_part, Transpose::kNo, Tensor(),
                Accumulate::kYes);
    if (weights.defined()) ops::weigh_backward(stream, dz, dweights.slice(first, count), h, weights, Tensor());

    // h = f(z) or f(gate) ⊙ z
    const Tensor dgate = shape_.gated ? h : Tensor();
    ops::activation_backward(stream, dz, dgate, dz, part.z, part.gate, shape_.activation);

    // z = x·K_iᵀ + c_i,  gate = x·G_iᵀ
    through(*tables_.keys, tables_.key_bias, dz, Accumulate::kNo);
    if (shape_.gated) through(*tables_.gate_keys, nullptr, dgate, Accumulate::kYes);
  }
}

}  // namespace sffn
