// The checks of the ops that weigh every block of a hidden vector.
#include "kernels/contract_call.h"
#include "kernels/ops.h"

namespace sffn::contract {
namespace {

// M cells are B blocks of equal size.
void check_cells(const Call& call, const char* name, int64_t M, int64_t B) {
  call.require(B >= 1 && M >= B && M % B == 0, name, " has ", M, " cells; expected a multiple of ", B, " blocks");
}

void check_value_projection(const Call& call, const Tensor& v, const char* v_name, const Tensor& values,
                            const Tensor& router) {
  const auto [M, D] = call.matrix("values", values);
  const DType acc = accumulate_type(values.dtype());
  const int64_t B = call.rows("router", router);
  call.exact("router", router, acc, {B, D});
  check_cells(call, "values", M, B);
  call.exact(v_name, v, acc, {M});
}

void check_block_dot(const Call& call, const Tensor& scores, const char* scores_name, const Tensor& h,
                     const Tensor& v) {
  const auto [N, M] = call.matrix("h", h);
  const DType acc = accumulate_type(h.dtype());
  const int64_t B = call.columns(scores_name, scores);
  call.exact(scores_name, scores, acc, {N, B});
  check_cells(call, "h", M, B);
  call.exact("v", v, acc, {M});
}

}  // namespace

void value_projection_forward(Stream& stream, Tensor v, const Tensor& values, const Tensor& router) {
  check_value_projection(Call(stream, __func__), v, "v", values, router);
}

void value_projection_backward(Stream& stream, Tensor dvalues, Tensor drouter, const Tensor& dv, const Tensor& values,
                               const Tensor& router) {
  const Call call(stream, __func__);
  check_value_projection(call, dv, "dv", values, router);
  call.exact("dvalues", dvalues, router.dtype(), values.shape());
  call.same("drouter", drouter, router);
}

void block_dot_forward(Stream& stream, Tensor scores, const Tensor& h, const Tensor& v) {
  check_block_dot(Call(stream, __func__), scores, "scores", h, v);
}

void block_dot_backward(Stream& stream, Tensor dh, Tensor dv, const Tensor& dscores, const Tensor& h, const Tensor& v) {
  const Call call(stream, __func__);
  check_block_dot(call, dscores, "dscores", h, v);
  call.same("dh", dh, h);
  call.same("dv", dv, v);
}

void scale_blocks(Stream& stream, Tensor out, const Tensor& h, const Tensor& weights) {
  const Call call(stream, __func__);
  const auto [N, M] = call.matrix("h", h);
  const int64_t B = call.columns("weights", weights);
  call.exact("weights", weights, accumulate_type(h.dtype()), {N, B});
  check_cells(call, "h", M, B);
  call.same("out", out, h);
}

void count_near_zero(Stream& stream, Tensor counts, const Tensor& z, Activation) {
  const Call call(stream, __func__);
  call.floating("z", z);
  call.exact("counts", counts, DType::kF64, {static_cast<int64_t>(1 + kNearZero.size())});
}

}  // namespace sffn::contract
