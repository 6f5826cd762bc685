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

}  // namespace sffn::contract
