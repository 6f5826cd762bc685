#include "nn/linear.h"

#include "kernels/ops.h"

namespace sffn {

Linear::Linear(ParamStore& params, const std::string& name, const Options& options)
    : weight_(&params.add({.name = name + ".weight", .shape = {options.out, options.in}, .init = options.init})) {
  if (options.bias) bias_ = &params.add({.name = name + ".bias", .shape = {options.out}, .storage = Storage::kVector});
}

void Linear::forward(Context& ctx, Tensor y, const Tensor& x) const {
  ops::matmul(ctx.stream, y, x, Transpose::kNo, weight_->value, Transpose::kYes, value_of(bias_), Accumulate::kNo);
}

void Linear::backward(Context& ctx, Tensor dx, const Tensor& dy, const Tensor& x, Accumulate to_dx) const {
  ops::matmul(ctx.stream, dx, dy, Transpose::kNo, weight_->value, Transpose::kNo, Tensor(), to_dx);
  ops::matmul(ctx.stream, weight_->grad, dy, Transpose::kYes, x, Transpose::kNo, Tensor(), Accumulate::kYes);
  if (bias_ != nullptr) ops::column_sum(ctx.stream, bias_->grad, dy);
}

}  // namespace sffn
