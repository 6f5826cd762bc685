// Checks of the matrix products, as contract.cpp. On the meta device each counts in stream.counter().
#include "kernels/contract_call.h"
#include "kernels/ops.h"

#include <utility>

namespace sffn::contract {
namespace {

// The dtype of an output that has that of the inputs or the one their sums are made in.
DType act_or_acc(const Tensor& output, DType input) {
  const DType accumulate = accumulate_type(input);
  return output.defined() && output.dtype() == accumulate ? accumulate : input;
}

void count(Stream& stream, const MatmulShape& shape) {
  if (stream.is_meta()) stream.counter().count(shape);
}

}  // namespace

void matmul(Stream& stream, Tensor c, const Tensor& a, Transpose ta, const Tensor& b, Transpose tb, const Tensor& bias,
            Accumulate add) {
  const Call call(stream, __func__);
  auto [M, K] = call.matrix("a", a);
  if (ta == Transpose::kYes) std::swap(M, K);
  auto [rows_of_b, N] = call.matrix("b", b);
  if (tb == Transpose::kYes) std::swap(rows_of_b, N);
  call.exact("b", b, a.dtype(), tb == Transpose::kYes ? Shape{N, K} : Shape{K, N});
  call.exact("c", c, act_or_acc(c, a.dtype()), {M, N});
  call.exact_or_absent("bias", bias, accumulate_type(a.dtype()), {N});
  count(stream, {.M = M,
                 .N = N,
                 .K = K,
                 .transpose_a = ta == Transpose::kYes,
                 .transpose_b = tb == Transpose::kYes,
                 .bias = bias.defined(),
                 .accumulate = add == Accumulate::kYes,
                 .input = a.dtype(),
                 .output = c.dtype()});
}

void matmul_activation_forward(Stream& stream, Tensor h, Tensor z, const Tensor& x, const Tensor& w, const Tensor& bias,
                               const Tensor& gate, Activation) {
  const Call call(stream, __func__);
  const auto [N, D] = call.matrix("x", x);
  const int64_t M = call.rows("w", w);
  call.exact("w", w, x.dtype(), {M, D});
  const DType type = act_or_acc(h, x.dtype());
  call.exact("h", h, type, {N, M});
  call.exact_or_absent("z", z, type, {N, M});
  call.exact_or_absent("bias", bias, accumulate_type(x.dtype()), {M});
  call.exact_or_absent("gate", gate, type, {N, M});
  count(stream,
        {.M = N, .N = M, .K = D, .transpose_b = true, .bias = bias.defined(), .input = x.dtype(), .output = type});
}

void matmul_activation_backward(Stream& stream, Tensor dz, Tensor dgate, const Tensor& dy, const Tensor& v,
                                const Tensor& z, const Tensor& gate, Activation) {
  const Call call(stream, __func__);
  const auto [N, D] = call.matrix("dy", dy);
  const int64_t M = call.rows("v", v);
  call.exact("v", v, dy.dtype(), {M, D});
  const DType type = act_or_acc(dz, dy.dtype());
  call.exact("dz", dz, type, {N, M});
  call.exact("z", z, type, {N, M});
  call.exact_or_absent("gate", gate, type, {N, M});
  if (gate.defined()) call.exact("dgate", dgate, type, {N, M});
  if (!gate.defined() && dgate.defined()) call.refuse("dgate", dgate, "absent, as gate is");
  count(stream, {.M = N, .N = M, .K = D, .transpose_b = true, .input = dy.dtype(), .output = type});
}

void weight_gradient(Stream& stream, Tensor dw, Tensor dbias, const Tensor& dy, const Tensor& x, Transpose tw) {
  const Call call(stream, __func__);
  const auto [N, M] = call.matrix("dy", dy);
  const int64_t D = call.columns("x", x);
  call.exact("x", x, dy.dtype(), {N, D});
  const bool transposed = tw == Transpose::kYes;
  const DType accumulate = accumulate_type(dy.dtype());
  call.exact("dw", dw, accumulate, transposed ? Shape{M, D} : Shape{D, M});
  call.exact_or_absent("dbias", dbias, accumulate, {M});
  count(stream, {.M = transposed ? M : D,
                 .N = transposed ? D : M,
                 .K = N,
                 .transpose_a = true,
                 .accumulate = true,
                 .input = dy.dtype(),
                 .output = accumulate});
}

}  // namespace sffn::contract
