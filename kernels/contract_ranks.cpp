#include "kernels/contract_call.h"
#include "kernels/ops.h"

namespace sffn::contract {

void localise_blocks(Stream& stream, Tensor out, const Tensor& blocks, int64_t first, int64_t count) {
  const Call call(stream, __func__);
  call.here("blocks", blocks);
  if (blocks.shape().rank() != 2) call.refuse("blocks", blocks, "two dimensions");
  call.exact("blocks", blocks, DType::kI32, blocks.shape());
  call.exact("out", out, DType::kI32, blocks.shape());
  call.require(first >= 0 && count >= 1, "blocks from ", first, ", ", count, " of them; expected at least 1 from 0 on");
}

void sum_parts(Stream& stream, Tensor y, const Tensor& parts, const Tensor& bias) {
  const Call call(stream, __func__);
  const auto [N, D] = call.matrix("y", y);
  call.here("parts", parts);
  if (parts.shape().rank() != 3 || parts.shape()[0] < 1) call.refuse("parts", parts, "[R, N, D] of at least one part");
  call.exact("parts", parts, y.dtype(), {parts.shape()[0], N, D});
  call.exact_or_absent("bias", bias, accumulate_type(y.dtype()), {D});
}

void ranks_of_blocks(Stream& stream, Tensor ranks, const Tensor& blocks, int64_t blocks_of_rank) {
  const Call call(stream, __func__);
  call.here("ranks", ranks);
  if (ranks.shape().rank() != 2 || ranks.cols() < 1) call.refuse("ranks", ranks, "[N, R] of at least one rank");
  call.exact("ranks", ranks, DType::kI32, ranks.shape());
  call.here("blocks", blocks);
  if (blocks.shape().rank() != 2) call.refuse("blocks", blocks, "two dimensions");
  call.exact("blocks", blocks, DType::kI32, {ranks.rows(), blocks.cols()});
  call.require(blocks_of_rank >= 1, "blocks_of_rank is ", blocks_of_rank, "; expected at least 1");
}

void gather_tokens(Stream& stream, Tensor out, const Tensor& x, const Tensor& order, int64_t per_token) {
  const Call call(stream, __func__);
  call.here("x", x);
  if (x.shape().rank() != 2) call.refuse("x", x, "two dimensions");
  call.here("order", order);
  call.exact("order", order, DType::kI32, {order.numel()});
  call.exact("out", out, x.dtype(), {order.numel(), x.cols()});
  call.require(per_token >= 1, "per_token is ", per_token, "; expected at least 1");
}

void combine_tokens(Stream& stream, Tensor y, const Tensor& rows, const Tensor& inverse, const Tensor& bias) {
  const Call call(stream, __func__);
  const auto [N, D] = call.matrix("y", y);
  call.exact("rows", rows, y.dtype(), {call.rows("rows", rows), D});
  call.here("inverse", inverse);
  if (inverse.shape().rank() != 2) call.refuse("inverse", inverse, "two dimensions");
  call.exact("inverse", inverse, DType::kI32, {N, inverse.cols()});
  call.exact_or_absent("bias", bias, accumulate_type(y.dtype()), {D});
}

}  // namespace sffn::contract
