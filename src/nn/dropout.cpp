#include "nn/dropout.h"

#include "kernels/ops.h"

namespace sffn {

Tensor dropout_backward(Context& ctx, const Tensor& dh, const Dropout& dropout) {
  if (dropout.probability == 0) return dh;
  Tensor masked = ctx.scratch.allocate(dh.shape(), dh.dtype(), "gradient before dropout");
  ops::copy(ctx.stream, masked, dh);
  ops::dropout(ctx.stream, masked, dropout);
  return masked;
}

}  // namespace sffn
