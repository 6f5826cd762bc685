// The checks of the ops over sorted rows and between all cells; see contract.cpp. FLOPs of the block products count
// every choice, dropped or not: how many are kept is known to the device alone.
#include "kernels/contract_call.h"
#include "kernels/ops.h"

namespace sffn::contract {
namespace {

// What the shapes of the tensors around a routing say: P choices of N tokens, blocks of G cells.
struct Sizes {
  int64_t N = 0, P = 0, G = 0;
};

Sizes check_routing(const Call& call, const BlockRouting& r, int64_t N) {
  call.routing(r, N);
  return {.N = N, .P = N * r.per_token};
}

// Also that the M cells of a table are B blocks of G.
Sizes check_routing(const Call& call, const BlockRouting& r, int64_t N, const char* table, int64_t M) {
  Sizes sizes = check_routing(call, r, N);
  call.require(M % r.blocks == 0 && M > 0, table, " has ", M, " cells; expected a multiple of ", r.blocks, " blocks");
  sizes.G = M / r.blocks;
  return sizes;
}

void count_block_product(Stream& stream, const Sizes& s, int64_t D) {
  if (!stream.is_meta()) return;
  const double flops = 2.0 * static_cast<double>(s.P) * static_cast<double>(s.G) * static_cast<double>(D);
  stream.counter().matmul_flops += flops;
  stream.counter().block_flops += flops;
}

// The inputs of a product x·W_blockᵀ + bias_block.
Sizes check_projection(const Call& call, const Tensor& x, const Tensor& w, const Tensor& bias,
                       const BlockRouting& routing) {
  const auto [N, D] = call.matrix("x", x);
  const int64_t M = call.rows("w", w);
  call.exact("w", w, x.dtype(), {M, D});
  const Sizes s = check_routing(call, routing, N, "w", M);
  call.exact_or_absent("bias", bias, accumulate_type(x.dtype()), {M});
  return s;
}

}  // namespace

void block_project(Stream& stream, Tensor z, const Tensor& x, const Tensor& w, const Tensor& bias,
                   const BlockRouting& routing) {
  const Call call(stream, __func__);
  const Sizes s = check_projection(call, x, w, bias, routing);
  call.exact("z", z, x.dtype(), {s.P, s.G});
  count_block_product(stream, s, x.cols());
}

void block_project_activation(Stream& stream, Tensor h, Tensor z, const Tensor& x, const Tensor& w, const Tensor& bias,
                              const Tensor& gate, const BlockRouting& routing, Activation) {
  const Call call(stream, __func__);
  const Sizes s = check_projection(call, x, w, bias, routing);
  call.exact("h", h, x.dtype(), {s.P, s.G});
  call.exact("z", z, x.dtype(), {s.P, s.G});
  call.exact_or_absent("gate", gate, x.dtype(), {s.P, s.G});
  count_block_product(stream, s, x.cols());
}

void block_combine(Stream& stream, Tensor y, const Tensor& h, const Tensor& weights, const Tensor& w,
                   const Tensor& bias, const BlockRouting& routing, Accumulate) {
  const Call call(stream, __func__);
  const auto [N, D] = call.matrix("y", y);
  const int64_t M = call.rows("w", w);
  call.exact("w", w, y.dtype(), {M, D});
  const Sizes s = check_routing(call, routing, N, "w", M);
  call.exact("h", h, y.dtype(), {s.P, s.G});
  call.exact_or_absent("weights", weights, accumulate_type(y.dtype()), {N, routing.per_token});
  call.exact_or_absent("bias", bias, accumulate_type(y.dtype()), {D});
  count_block_product(stream, s, D);
}

void block_weight_gradient(Stream& stream, Tensor dw, const Tensor& h, const Tensor& weights, const Tensor& x,
                           const BlockRouting& routing) {
  const Call call(stream, __func__);
  const auto [N, D] = call.matrix("x", x);
  const int64_t M = call.rows("dw", dw);
  call.exact("dw", dw, accumulate_type(x.dtype()), {M, D});
  const Sizes s = check_routing(call, routing, N, "dw", M);
  call.exact("h", h, x.dtype(), {s.P, s.G});
  call.exact_or_absent("weights", weights, accumulate_type(x.dtype()), {N, routing.per_token});
  count_block_product(stream, s, D);
}

void block_bias_gradient(Stream& stream, Tensor dbias, const Tensor& dz, const BlockRouting& routing) {
  const Call call(stream, __func__);
  const int64_t P = call.rows("dz", dz);
  call.require(routing.per_token >= 1 && P % routing.per_token == 0, "dz has ", P, " rows; expected a multiple of ",
               routing.per_token, ", the blocks of a token");
  const Sizes s = check_routing(call, routing, P / routing.per_token);
  call.exact("dbias", dbias, accumulate_type(dz.dtype()), {routing.blocks * dz.cols()});
  call.exact("dz", dz, dz.dtype(), {s.P, dz.cols()});
}

void weigh_backward(Stream& stream, Tensor dh, Tensor dweights, const Tensor& h, const Tensor& weights,
                    const Tensor& inverse) {
  const Call call(stream, __func__);
  const auto [P, G] = call.matrix("h", h);
  call.exact("dh", dh, h.dtype(), {P, G});
  const auto [N, b] = call.matrix("weights", weights);
  call.exact("weights", weights, accumulate_type(h.dtype()), {N, b});
  if (N * b != P) call.refuse("weights", weights, cat(P, " elements, as h ", h.shape().str(), " has rows"));
  call.same("dweights", dweights, weights);
  call.exact_or_absent("inverse", inverse, DType::kI32, {P});
}

void gather_cells(Stream& stream, Tensor out, const Tensor& cells, const Tensor& bias, const Tensor& blocks) {
  const Call call(stream, __func__);
  const auto [P, G] = call.matrix("out", out);
  const auto [N, M] = call.matrix("cells", cells);
  if (cells.dtype() != accumulate_type(out.dtype())) call.exact("cells", cells, out.dtype(), {N, M});
  if (G < 1 || M % G != 0) call.refuse("cells", cells, cat("columns in blocks of ", G, ", as out has"));
  call.exact_or_absent("bias", bias, accumulate_type(out.dtype()), {M});
  call.require(N > 0 ? P % N == 0 : P == 0, "out has ", P, " rows; expected a multiple of ", N, ", the rows of cells");
  const int64_t b = N > 0 ? P / N : 0;
  call.exact("blocks", blocks, DType::kI32, {N, N > 0 ? b : blocks.defined() ? blocks.cols() : 0});
}

void scatter_cells(Stream& stream, Tensor cells, const Tensor& h, const Tensor& weights, const Tensor& blocks) {
  const Call call(stream, __func__);
  const auto [P, G] = call.matrix("h", h);
  const auto [N, M] = call.matrix("cells", cells);
  call.exact("cells", cells, h.dtype(), {N, M});
  if (G < 1 || M % G != 0) call.refuse("cells", cells, cat("columns in blocks of ", G, ", as h has"));
  call.require(N > 0 ? P % N == 0 : P == 0, "h has ", P, " rows; expected a multiple of ", N, ", the rows of cells");
  const int64_t b = N > 0 ? P / N : 0;
  call.exact("blocks", blocks, DType::kI32, {N, N > 0 ? b : blocks.defined() ? blocks.cols() : 0});
  call.exact_or_absent("weights", weights, accumulate_type(h.dtype()), blocks.shape());
}

void permute_rows(Stream& stream, Tensor out, const Tensor& rows, const Tensor& order) {
  const Call call(stream, __func__);
  call.exact("order", order, DType::kI32, {call.rows("rows", rows)});
  call.same("out", out, rows);
}

}  // namespace sffn::contract
